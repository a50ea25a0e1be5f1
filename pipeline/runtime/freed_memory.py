"""Memory that a training frees and asks for again at once."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's names of its settings."""


def keep_freed_memory() -> bool:
    """Let this process keep large blocks that it frees; says whether it could (with glibc only).

    By default each large tensor's memory goes back to the system when it is freed, and is cleared and mapped again, page by
    page, for the next one: a quarter of the time of a training step on the CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, -1))
