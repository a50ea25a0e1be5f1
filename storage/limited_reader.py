"""Reads tables of strangers in a process with limits first: a few kilobytes of Parquet can expand to gigabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from storage import limited_process
from storage.errors import FatalError
from storage.limited_process import BYTES, SECONDS


class LimitedReader:
    """Reads tables in another process, which is started when it is first needed and replaced if it dies.

    Use it as a context, at whose end the process ends. It also ends with this process, whose pipe it reads.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LimitedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._end(self._process)

    def require_readable(self, path: Path) -> None:
        """Read a table as a whole. Raises `FatalError` for one that is damaged or takes more than the limits allow."""
        self._process = process = self._process or _start()
        answer = ""
        if process.stdin is not None and process.stdout is not None:
            try:
                process.stdin.write(json.dumps(str(path)) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                pass  # a process that died gives no answer
        if not answer:
            code, self._process = self._end(process), None
            raise FatalError(
                f"{path.name} takes more than {BYTES // 2**30} GiB of memory or {SECONDS:g} s to read (exit code {code})"
            )
        if fault := json.loads(answer):
            raise FatalError(f"{path.name} can't be read ({fault})")

    def _end(self, process: subprocess.Popen[str]) -> int:
        process.kill()
        process.communicate()
        return process.returncode


def _start() -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-P", "-m", limited_process.__name__]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
