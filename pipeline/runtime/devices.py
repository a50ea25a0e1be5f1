"""Chooses the device on which a process computes, and its precision, for stages, commands, engines and training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import FatalError

if TYPE_CHECKING:  # torch takes seconds to load, and most processes that import this module don't need it
    import torch

DEVICES = r"^(auto|cpu|cuda(:\d{1,3})?)$"
"""What a setting or an option may ask for."""
PROCESSOR = Path("/proc/cpuinfo")
"""Where Linux lists the instructions of the processor."""


def choose_device(setting: str, number: int = 0) -> torch.device:
    """The device that `setting` selects for worker or local rank `number`.

    "cuda" assigns the GPUs to the workers in turn, "cuda:1" names one, and "auto" is "cuda" where there is a GPU and
    "cpu" elsewhere. Only GPUs that this process may see count: an actor of a Ray cluster sees those that it was given.
    On a GPU, 32-bit convolutions of this process then keep 32 bits, unless training sets its own precision afterwards.
    Raises `FatalError` for another setting, and when the machine lacks the GPU that is asked for.
    """
    import torch

    if not re.fullmatch(DEVICES, setting):
        raise FatalError(f"device = {setting!r}: no such device; set it to auto, cpu, cuda or, for one GPU, cuda:1")
    count = torch.cuda.device_count()
    if setting == "cpu" or (setting == "auto" and count == 0):
        return torch.device("cpu")
    _, _, index = setting.partition(":")
    if count == 0 or (index and int(index) >= count):
        available = "none" if count == 0 else f"cuda:0 to cuda:{count - 1}"
        raise FatalError(
            f"device = {setting!r}: torch {torch.__version__} finds no such GPU (available: {available}). Set device "
            "to 'auto' or 'cpu'; `rlip doctor RECIPE` says why a GPU can't be used"
        )
    torch.backends.cudnn.allow_tf32 = False  # by default True, unlike that of matrix products
    return torch.device("cuda", int(index) if index else number % count)


def has_bfloat16(setting: str) -> bool:
    """Whether the device that `setting` selects has instructions for bfloat16. Others emulate it, slowly."""
    import torch

    if setting != "cpu" and torch.cuda.device_count():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = PROCESSOR.read_text() if PROCESSOR.is_file() else ""
    # AVX-512 and AMX on x86, bf16 on ARM.
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", known) is not None
