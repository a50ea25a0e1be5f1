"""The outcome of a device check, how its results are compared, and how it is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from models.deformable_read_triton import OFF
from pipeline.runtime.processes import environment
from pipeline.training.throughput import measured_peak

State = Literal["ok", "wrong", "slow", "failed", "absent"]
"""wrong: the result differs from the expected one, or from that of a repetition. absent: this machine lacks what is
checked."""


@dataclass(frozen=True)
class CheckOutcome:
    """What a check found on a device."""

    figure: str
    state: State = "ok"
    advice: str = ""
    """What to do, if anything."""

    def unless(self, is_fine: bool, state: State, advice: str) -> CheckOutcome:
        """This outcome if `is_fine` or if it already states a fault; otherwise the same figure with this state and
        advice."""
        return self if is_fine or self.state != "ok" else replace(self, state=state, advice=advice)


def judged(is_right: bool, figure: str, suspect: str) -> CheckOutcome:
    """An outcome that is ok, or wrong with the advice to look at `suspect` first."""
    return CheckOutcome(figure).unless(is_right, "wrong", f"see whether {suspect} is wrong, then {REPORT}")


class Absent(Exception):
    """This machine lacks what is checked."""


Check = Callable[[torch.device], CheckOutcome]
LEAST_SECONDS = 0.2
"""Minimum time for which a timed call is repeated."""
NEAR, NEAR_BF16 = 1e-4, 0.05
"""Allowed differences from the CPU in float32, as shares of the largest value there; the second with bfloat16."""
MOST_WAITING = 0.05
"""Share of the time that a device may wait for data."""
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


def product_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second in matrix products."""
    return measured_peak(device, dtype, 1024 if is_gpu(device) else 256, LEAST_SECONDS)


def memory_rate(device: torch.device) -> float:
    """Bytes per second that copies within the device's memory read and write."""
    size = 2**28 if is_gpu(device) else 2**22
    there, other = torch.zeros(2, size, dtype=torch.uint8, device=device)
    return 2 * size / seconds(partial(other.copy_, there), device)


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any pair of tensors, as a share of the largest value that was expected there."""
    shares = (
        (one.detach().cpu().float() - other.float()).abs().max() / other.abs().max().clamp_min(1e-6)
        for one, other in zip(found, expected, strict=True)
        if other.numel()
    )
    # Python's max would lose NaN behind a number.
    return float(torch.stack([torch.zeros(()), *shares]).max())


def compared(
    found: Sequence[Tensor], again: Sequence[Tensor], expected: Sequence[Tensor], near: float = NEAR
) -> tuple[bool, str]:
    """Whether a result is near the expected one and repeats bit for bit, and both in words."""
    far = difference(found, expected)
    same = all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(found, again, strict=True))
    return same and far <= near, f"differs by {far:.1e}{'' if same else ' and from itself'}"


@contextmanager
def tf32(is_allowed: bool) -> Iterator[None]:
    """Sets whether factors of matrix products are rounded to TF32 inside the context."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = is_allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def without_kernels() -> AbstractContextManager[None]:
    """Deformable attention reads without Triton inside the context, also in processes that start there."""
    name, _, value = OFF.partition("=")
    return environment({name: value})
