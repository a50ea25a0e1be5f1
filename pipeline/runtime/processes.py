"""What a process of ours is set up with: death with its parent, one thread, memory that it keeps, its device."""

from __future__ import annotations

import ctypes
import platform

import torch

from storage.errors import Terminal

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


def choose_device(setting: str, worker: int = 0) -> torch.device:
    """The device that `setting` means to worker number `worker`: "cuda" deals the GPUs out to the workers in turn.

    "auto" is "cuda" where there is a GPU and "cpu" elsewhere. Raises `Terminal` when a GPU is asked for that isn't there.
    """
    count = torch.cuda.device_count()
    if setting == "cpu" or (setting == "auto" and count == 0):
        return torch.device("cpu")
    _, _, number = setting.partition(":")
    if count == 0 or (number and int(number) >= count):
        there = "none" if count == 0 else f"cuda:0 to cuda:{count - 1}"
        raise Terminal(
            f"device: {setting!r} is not there, torch {torch.__version__} finds {there} (setting: device). Set it to "
            "'auto' or 'cpu', or see `rlip doctor` for why a GPU can't be used"
        )
    return torch.device("cuda", int(number) if number else worker % count)
