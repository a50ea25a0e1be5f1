"""Reads tables of strangers in a process with limits first: a few kilobytes of Parquet can expand to gigabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from storage import limited_process
from storage.errors import FatalError
from storage.processes import importing_environment


class LimitedReader:
    """Reads tables in another process, which is started when it is first needed and replaced if it dies.

    Use it as a context, at whose end the process ends. The process also ends when this one does, whose pipe it reads.
    """

    def __init__(self, seconds: float = 10.0, size: int = 2**30) -> None:
        """`seconds` of processor time and `size` bytes of memory are what reading a table may take."""
        self._limits = seconds, size
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LimitedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            _end(self._process)

    def require_readable(self, path: Path) -> None:
        """Read a table as a whole. Raises `FatalError` for one that is damaged or takes more than the limits allow."""
        self._process = process = self._process or self._start()
        fault = _ask(process, path)
        if fault is None:
            code, self._process = _end(process), None
            seconds, size = self._limits
            fault = f"it takes more than {seconds:g} s or {size:,} bytes of memory; exit code {code}"
        if fault:
            raise FatalError(f"{path.name} can't be read ({fault})")

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", limited_process.__name__, *map(str, self._limits)]
        # Each thread that allocates memory would reserve address space.
        environment = {**importing_environment(), "MALLOC_ARENA_MAX": "1"}
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(process: subprocess.Popen[str], path: Path) -> str | None:
    """What the process finds wrong with a table, "" for nothing; None where it dies of it."""
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    with suppress(BrokenPipeError):  # a dead process is noticed by the missing answer
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    return json.loads(answer) if answer else None


def _end(process: subprocess.Popen[str]) -> int:
    """End the process, unless it has ended by itself, and return its exit code."""
    process.kill()
    process.communicate()
    return process.returncode
