"""The process that reads tables of strangers for another one (`LimitedReader`), which does not depend on its survival."""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

import pyarrow as pa

from storage.tables import read_table

SECONDS = 10.0
"""Processor time after which the system ends the process."""
BYTES = 2**30
"""Address space that the process may take beyond what it begins with."""


def serve() -> None:
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
    serve()
