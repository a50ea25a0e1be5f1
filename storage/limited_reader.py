"""Reads tables of strangers in a process with limits first: a few kilobytes of Parquet can expand to gigabytes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from storage.errors import FatalError
from storage.tables import read_table

SECONDS = 10.0
"""Processor time after which the system ends the process."""
BYTES = 2**30
"""Address space that the process may take beyond what it begins with."""


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
    command = [sys.executable, "-P", "-m", __name__]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve() -> None:
    """Read each table that a line of standard input names, and say on standard output what is wrong with it, if anything."""
    # Threads and other allocators reserve address space, which counts.
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        print(json.dumps(_fault(Path(json.loads(line)))), flush=True)


def _fault(path: Path) -> str:
    """What is wrong with a table; "" for one that can be read."""
    try:
        read_table(path).validate(full=True)
    except MemoryError:
        return f"more than {BYTES // 2**30} GiB of memory"
    except (pa.ArrowException, OSError, ValueError) as error:
        return str(error).partition("\n")[0][:200]
    return ""


if __name__ == "__main__":
    _serve()
