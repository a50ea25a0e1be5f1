"""How a command ends on an error or an interrupt."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, main_thread
from typing import Any

import typer

from pipeline.runtime.wording import printable

LONGEST = 8_000
"""Maximum number of characters printed of a message. Names in files from elsewhere may be of any length."""
_EXTRAS = {"duckdb": "review", "fastapi": "review", "uvicorn": "review", "onnx_ir": "onnx"}
"""Module → the extra that provides it, for modules whose absence only shows on import."""


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turns bad input into one message and exit code 1, and Ctrl-C and SIGTERM into one message and exit code 130.

    Bad input is a `PipelineError` or an error that any code may meet: an unusable file, a name that isn't UTF-8, too
    little memory. Other errors are bugs of the program and keep their traceback.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    warnings.showwarning = _show_warning
    sys.unraisablehook = _interrupt_again
    try:
        yield
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"\nStopped.{' '.join(['', *stop.args])}\n")
        raise typer.Exit(130) from None
    except Exception as error:
        message = _message(error)
        if not message:
            raise
        sys.stderr.write(f"Error: {as_printed(message)}\n")
        raise typer.Exit(1) from None


@contextmanager
def resumable() -> Iterator[None]:
    """Decorates a resumable command, so that the message about an interrupt says how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Everything committed is kept: run the same command again to resume.") from None


def _message(error: Exception) -> str:
    """The message about bad input; "" for a bug of the program."""
    from storage.errors import PipelineError, RetryableError

    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"this needs {error.name}: pip install 'rlip[{_EXTRAS[error.name]}]'"
    if isinstance(error, RetryableError):
        return f"{error}\nA retry may help: run the same command again to resume."
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
        where = error.filename2 or error.filename
        return (
            f"{where}: {error.strerror}; name another file or folder, or change this one" if where else error.strerror
        )
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:LONGEST]!r} is not UTF-8; rename the file, or type the text in a UTF-8 terminal"
    if isinstance(error, MemoryError):
        return "out of memory; process less at once, or use a machine with more memory"
    return ""


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning without the line of code that warned."""
    sys.stderr.write(f"Warning: {as_printed(str(message))}\n")


def as_printed(message: str) -> str:
    """A message that is safe to print: without passwords in URLs and without control characters, e.g. from names."""
    from storage.secrets import redacted

    shown = redacted(message if len(message) <= LONGEST else f"{message[:LONGEST]}…")
    return printable(shown, keep="\n")


def _interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops interrupts that arrive inside a finaliser or a C library's callback. Raise it again outside."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    # Sent to the main thread itself, since only that interrupts a call in which it waits.
    again = Timer(0.05, signal.pthread_kill, (main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()
