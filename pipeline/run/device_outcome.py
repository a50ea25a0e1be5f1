"""What a check of a device found, how its results are compared, and how it is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

State = Literal["ok", "wrong", "slow", "failed", "absent"]
"""wrong: another result than that of the CPU, or of the same computation a second time. absent: this machine lacks what
the check is about."""


@dataclass(frozen=True)
class Outcome:
    """What a check found on a device."""

    figure: str
    state: State = "ok"
    advice: str = ""
    """What to do, if anything."""


def judged(is_right: bool, figure: str, suspect: str) -> Outcome:
    """An outcome that is ok, or wrong; then `suspect` is what to look at first."""
    return Outcome(figure) if is_right else Outcome(figure, "wrong", f"see whether {suspect} is wrong, then {REPORT}")


class Absent(Exception):
    """This machine lacks what a check is about."""


Check = Callable[[torch.device], Outcome]
LEAST_SECONDS = 0.2
"""What is timed is repeated for so long."""
NEAR, NEAR_BF16 = 1e-4, 0.05
"""Allowed differences from the CPU in float32, as shares of the largest value there; the second with bfloat16."""
REPORT = "report this line, with the versions, to the project"


def is_gpu(device: torch.device) -> bool:
    """Whether sizes are those of real work."""
    return device.type == "cuda"


def wait(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The seconds of a call, after one that warms up."""
    call()
    count, taken = 0, 0.0
    while taken < LEAST_SECONDS:
        count = 2 * count or 1
        wait(device)
        began = time.perf_counter()
        for _ in range(count):
            call()
        wait(device)
        taken = time.perf_counter() - began
    return taken / count


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any pair of tensors, as a share of the largest value that was expected there."""
    return max(
        float((one.detach().cpu().float() - other.float()).abs().max() / other.abs().max().clamp_min(1e-6))
        if other.numel()
        else 0.0
        for one, other in zip(found, expected, strict=True)
    )


def compared(
    found: Sequence[Tensor], again: Sequence[Tensor], expected: Sequence[Tensor], near: float = NEAR
) -> tuple[bool, str]:
    """Whether a result is near what is expected and has the same bits a second time, and both in words."""
    far = difference(found, expected)
    same = all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(found, again, strict=True))
    return same and far <= near, f"differs by {far:.1e}{'' if same else ' and from itself'}"


@contextmanager
def tf32(is_allowed: bool) -> Iterator[None]:
    """Whether factors of products of matrices are rounded to TF32 inside the context."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = is_allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
