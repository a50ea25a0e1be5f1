"""Deformable attention on a device: against grid_sample, twice for equal bits, and against the least time on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from models.deformable_read import Shapes, read, read_plainly
from models.deformable_read_triton import OFF, chosen, unfit_machine
from pipeline.run.device_outcome import (
    NEAR,
    NEAR_BF16,
    REPORT,
    CheckOutcome,
    compared,
    difference,
    is_gpu,
    memory_rate,
    product_rate,
    seconds,
    tf32,
)
from pipeline.training.worker import be_deterministic


class Counted(NamedTuple):
    """What a kernel does at least."""

    memory: float
    """Bytes, if each tensor moves once."""
    gathered: float
    """Bytes of cells, each of which is loaded once for each point around it. Most of these loads end in the L2 cache,
    whose speed vendors don't state, so a least time by `memory` is optimistic."""
    operations: float
    """In fp32 without tensor cores."""

    def least_seconds(self, memory: float, operations: float) -> float:
        """Returns the least time by a device's bytes and operations a second."""
        return max(self.memory / memory, self.operations / operations)


FORWARD = ("read_kernel",)
FAST = (*FORWARD, "query_gradients_kernel", "add_value_gradient_kernel")
"""Kernels of both passes with `deterministic = "fast"`."""
IN_ORDER = (*FORWARD, "query_gradients_kernel", "sort", "starts", "value_gradient_kernel")


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of one reading of deformable attention."""

    images: int = 2
    channels: int = 32
    queries: int = 300
    heads: int = 8
    points: int = 4
    shapes: Shapes = ((100, 167), (50, 84), (25, 42), (13, 21))
    """Maps of an image of 800×1333 pixels."""
    spread: float = 1.2
    """Places lie in a square of this side, where the map has side 1, around its middle."""

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, places, weights, and a gradient of what is read, on the CPU."""
        random = torch.Generator().manual_seed(0)
        programs, columns = self.images * self.heads, len(self.shapes) * self.points
        tokens = sum(height * width for height, width in self.shapes)
        value = torch.randn(self.images, self.heads, tokens, self.channels, generator=random)
        sides = torch.tensor([(width, height) for height, width in self.shapes for _ in range(self.points)]).T
        places = torch.rand(programs, self.queries, 2, columns, generator=random) - 0.5
        weights = torch.rand(programs, self.queries, columns, generator=random)
        pushed = torch.randn(programs, self.queries, self.channels, generator=random)
        return value, (places * self.spread + 0.5) * sides - 0.5, weights / columns, pushed

    def counted(self, dtype: torch.dtype) -> dict[str, Counted]:
        """Kernel → what one reading and its backward pass with values of this type make it do."""
        programs = self.images * self.heads
        points = programs * self.queries * len(self.shapes) * self.points
        bins = programs * sum((height + 1) * (width + 1) for height, width in self.shapes)
        read = programs * self.queries * self.channels * 4
        cells = programs * sum(height * width for height, width in self.shapes) * self.channels
        value, inputs = cells * dtype.itemsize, points * 3 * 4
        corners = points * 4 * self.channels
        # Each corner is one product and one sum per channel; a point's shares take ten operations more.
        return {
            "read_kernel": Counted(value + inputs + read, corners * dtype.itemsize, 2 * corners + 10 * points),
            "query_gradients_kernel": Counted(
                value + 2 * inputs + read + points * 4, corners * dtype.itemsize, 2 * corners + 30 * points
            ),
            # A radix sort of 32-bit keys with 64-bit numbers: four passes that read and write both.
            "sort": Counted(points * 4 * 2 * 12, 0, 0),
            "starts": Counted(points * 4 + bins * 4, 0, 0),
            "value_gradient_kernel": Counted(
                points * 8 + bins * 4 + inputs + read + value, corners * 4, 2 * corners + 4 * 12 * points
            ),
            # It adds to fp32, which is made zero before it.
            "add_value_gradient_kernel": Counted(inputs + read + 2 * cells * 4, corners * 4, 2 * corners + 10 * points),
        }

    def small(self) -> AttentionSizes:
        """The same with maps of a fifth of the sides, for devices where speed doesn't matter."""
        return replace(self, shapes=tuple((-(-height // 5), -(-width // 5)) for height, width in self.shapes))


READINGS = {
    "encoder": AttentionSizes(queries=22_223),
    "decoder": AttentionSizes(),
    "one query": AttentionSizes(images=1, queries=1),
    "no query": AttentionSizes(queries=0),
    "odd sizes": AttentionSizes(images=1, channels=24, heads=3, points=3, shapes=((17, 31), (9, 1))),
    "points outside": AttentionSizes(spread=6.0),
}


def _read(reader: Callable[..., Tensor], inputs: Sequence[Tensor], shapes: Shapes) -> list[Tensor]:
    *leaves, pushed = inputs
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    found = reader(*leaves, shapes)
    return [found.detach(), *torch.autograd.grad(found, leaves, pushed.to(found.dtype))]


def _plainly(value_BMSC: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    return read_plainly(value_BMSC.flatten(0, 1).to(places.dtype), places, weights, shapes)


def reading(kind: AttentionSizes, dtype: torch.dtype, device: torch.device) -> CheckOutcome:
    """Deformable attention against PyTorch's grid_sample, forward and backward, twice for equal bits and once fast.

    Each time is shown with the least one on paper, from the kernels' bytes and operations at peaks measured here.
    """
    if is_gpu(device) and (reason := unfit_machine(device.index)):  # grid_sample reads, whose sums have no fixed order
        return CheckOutcome(reason, "absent")
    if not is_gpu(device):
        kind = replace(kind.small(), queries=min(kind.queries, 100))
    value, *rest = kind.inputs()
    expected = _read(_plainly, (value, *rest), kind.shapes)
    inputs = [each.to(device) for each in (value.to(dtype), *rest)]
    near = NEAR if dtype == torch.float32 else NEAR_BF16
    with torch.no_grad():
        forward = seconds(partial(read, inputs[0], inputs[1], inputs[2], kind.shapes), device)
    fast, plain = (seconds(partial(_read, reader, inputs, kind.shapes), device) for reader in (read, _plainly))
    off = difference(_read(read, inputs, kind.shapes), expected)
    be_deterministic(device)
    found, again = (_read(read, inputs, kind.shapes) for _ in range(2))
    is_right, figure = compared(found, again, expected, near)
    ours = seconds(partial(_read, read, inputs, kind.shapes), device)
    with tf32(False):
        peaks = memory_rate(device), product_rate(device)
    counted, in_order = kind.counted(dtype), IN_ORDER if is_gpu(device) else FAST  # a CPU sorts nothing
    for name, taken, kernels in (("both passes", ours, in_order), ("fast", fast, FAST), ("forward", forward, FORWARD)):
        least = sum(counted[kernel].least_seconds(*peaks) for kernel in kernels)
        figure += f", {name} {1e3 * taken:.3g} ms (on paper {1e3 * least:.2g})"
    figure += f", grid_sample {1e3 * plain:.3g} ms, fast differs by {off:.1e}"
    if is_gpu(device):
        figure += "".join(f", {kernel}: {choice}" for kernel, picks in chosen().items() for choice in picks.values())
    wrong = f"set {OFF} in the environment, which reads with grid_sample, and {REPORT}"
    outcome = CheckOutcome(figure).unless(is_right and off <= near, "wrong", wrong)
    slow = f"{OFF} in the environment reads with grid_sample; {REPORT}"
    return outcome.unless(not is_gpu(device) or ours <= plain, "slow", slow)
