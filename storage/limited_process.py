"""The process that reads tables of strangers for a `LimitedReader`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pyarrow as pa

from storage.processes import limit_memory
from storage.tables import read_table


def serve(seconds: float, size: int) -> None:
    """Read each table that a line of standard input names, and say on standard output what is wrong with it, if anything.

    The system ends the process when a table takes more than `seconds` of processor time, whichever library it is in.
    `size`: bytes of memory that it may take beyond what it begins with.
    """
    # Threads and other allocators reserve address space, which counts.
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    limit_memory(size)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        print(json.dumps(_fault(Path(json.loads(line)))), flush=True)


def _fault(path: Path) -> str:
    """What is wrong with a table; "" for one that can be read."""
    try:
        read_table(path).validate(full=True)
    except MemoryError:
        return "out of memory"
    except (pa.ArrowException, OSError, ValueError) as error:
        return str(error).partition("\n")[0][:200]
    return ""


if __name__ == "__main__":
    serve(float(sys.argv[1]), int(sys.argv[2]))
