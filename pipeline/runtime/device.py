"""Where a captioner's network works: the processor, or one of the machine's GPUs."""

from __future__ import annotations

import torch

from storage.errors import Terminal


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
