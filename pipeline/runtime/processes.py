"""Setup of our processes: they die with their parent, use one thread and keep freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that limit the threads of numerical libraries."""
_STARTING = threading.Lock()
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""The numbers of these settings in glibc."""


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent (a process id) ends, even by SIGKILL."""
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(prctl_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Limit processes started inside this context to one thread each, so that workers don't compete for cores.

    Numerical libraries read the environment when they are loaded, which is before a worker's own first line.
    """
    with _STARTING:
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def keep_freed_memory() -> bool:
    """Let this process keep the large blocks that it frees. Returns whether it could, which needs glibc.

    By default, the memory of each large tensor goes back to the system when it is freed, and is cleared and mapped again
    page by page for the next one. That is a quarter of the time of a training step on the CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, -1))
