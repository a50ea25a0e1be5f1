"""Setup of our processes: they start quickly, die with their parent, limit their threads and keep freed memory."""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import platform
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import ParamSpec, TypeVar

from storage.errors import FatalError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that limit the threads of numerical libraries."""
_ONE_THREAD = {**dict.fromkeys(THREADS, "1"), "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Also keeps one of pyarrow's allocators from starting a thread on import, which would make forks unsafe."""
_PRELOADED: list[str] = []
_STARTING = threading.Lock()
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""The numbers of these settings in glibc."""
P = ParamSpec("P")
R = TypeVar("R")


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent (a process id) ends, even by SIGKILL."""
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(prctl_set_pdeathsig, signal.SIGKILL)
    # The parent may have ended before the request.
    if os.getppid() != parent:
        os._exit(1)


def preload(modules: Iterable[str]) -> None:
    """Name modules that the process of `fork_context` imports when it starts, so its forks need no seconds for them.

    Importing them must start no thread and open no device, else forks are not safe.
    """
    _PRELOADED.extend(module for module in modules if module not in _PRELOADED)


def fork_context() -> ForkServerContext:
    """Return how workers, ranks and loaders start: as forks of one process, which ends with the last of them.

    It imports what `preload` named before it started. A fork imports anything else by itself. Ctrl-C reaches none of
    them, not even while they import: the process that started them ends them. Raises `FatalError` on systems other than
    Linux, and if that process can't be started.
    """
    if (system := platform.system()) != "Linux":
        raise FatalError(f"rlip starts processes in ways that only Linux offers; run it there, not on {system}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, "pipeline.runtime.freeze"])
    resource_tracker.ensure_running()  # which would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # It must find what this process does. Older Pythons would search the current folder first.
        found = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        with one_thread_each(), environment(found):
            forkserver.ensure_running()
    except OSError as error:
        raise FatalError(
            f"no process can be started ({error}); its socket needs a TMPDIR on a local disk, with a short path"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def ready_to_fork(modules: Iterable[str]) -> None:
    """Wait until the process of `fork_context` has imported these modules, so that its forks start at once."""
    preload(modules)
    process = fork_context().Process(target=int)
    process.start()
    process.join()


def in_fork(seconds: float | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that raises nothing in a separate fork, and return its result.

    Raises `TimeoutError` after `seconds`, and `ChildProcessError` when the fork ends without a result.
    """
    context = fork_context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, dict(os.environ), partial(function, *args, **kwargs)))
    process.start()
    # While our copy of its end is open, a dead fork's pipe would never close.
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise TimeoutError(f"no result after {seconds:.0f} s")
        result: R = ours.recv()
        return result
    except EOFError:
        process.join()
        raise ChildProcessError(f"its process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def _call(pipe: Connection, environment: dict[str, str], function: Callable[[], object]) -> None:
    begin_fork(environment)
    pipe.send(function())


def begin_fork(environment: Mapping[str, str], output: Path | None = None) -> None:
    """Let this fork of `fork_context` die with the process that started it, and give it its environment variables.

    `output` is the file that it appends its output to. By default, both are those of the process it is forked from.
    """
    _die_with_starter()
    os.environ.clear()
    os.environ.update(environment)
    if output is not None:
        descriptor = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)


def _die_with_starter() -> None:
    """Let Linux kill this process when the process that started it ends, even by SIGKILL.

    A fork's parent is not the process that started it. That holds the other end of a pipe, which closes when it ends.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None, "multiprocessing did not start this process"
    pipe = starter.sentinel
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    # The pipe may have closed before the signal was arranged.
    if select.select([pipe], [], [], 0)[0]:
        os._exit(1)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Limit processes started inside this context to one thread each, so that workers don't compete for cores.

    Numerical libraries read the environment when they are loaded, which is before a worker's own first line.
    """
    with _STARTING, environment(_ONE_THREAD):
        yield


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside this context. Afterwards they are as they were before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def keep_freed_memory() -> bool:
    """Let this process keep the large blocks that it frees. Returns whether it could, which needs glibc.

    By default, the memory of each large tensor goes back to the system when it is freed, and is cleared and mapped
    again page by page for the next one. That is a quarter of the time of a training step on the CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, -1))
