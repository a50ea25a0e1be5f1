"""The floating-point operations (FLOPs) of training steps: a few are counted, the others estimated from those."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

COUNTED = 4
"""Steps that are counted."""


class StepFlops:
    """The FLOPs of steps by the pixels of their batch.

    Counting changes the order in which gradients are added up, and so their last bits. A step is therefore counted in an
    extra pass, the gradients of which are thrown away, and only the first steps of a process are. All processes count the
    same steps, because losses wait for those of the other processes.
    """

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        """`most`: the number of steps that are counted, by default `COUNTED`."""
        self._device, self._most = device, COUNTED if most is None else most
        self._counted: list[tuple[int, int]] = []

    @property
    def is_counting(self) -> bool:
        """Whether the next step should be counted."""
        return len(self._counted) < self._most

    def count(self, pixels: int, step: Callable[[], object]) -> None:
        """Counts a forward and backward pass over a batch of B·H·W `pixels`. Afterwards, set its gradients to None."""
        self._counted.append((pixels, count_flops(step, self._device)))

    def of(self, pixels: int) -> int:
        """Returns the FLOPs of a step: a linear function of the pixels, fitted to the counted steps; 0 before the first.

        The constant part is that of the texts; what depends on more than the number of pixels is averaged.
        """
        sizes, flops = np.array(self._counted, np.float64).reshape(-1, 2).T
        if len(set(sizes)) < 2:
            return round(float(flops.mean() * pixels / sizes.mean())) if len(sizes) else 0
        slope, constant = np.polyfit(sizes, flops, 1)
        return max(0, round(float(slope * pixels + constant)))


def count_flops(step: Callable[[], object], device: torch.device) -> int:
    """Runs a step on a device and returns the floating-point operations that it took.

    The random numbers of torch go on, there and on the CPU, as if it had not run.

    Counts what `torch.utils.flop_counter` knows: matrix products, convolutions and attention, where a multiplication and an
    addition are two operations. Operations per element, such as activations, are left out, as is usual for MFU. What
    activation checkpointing computes again counts too.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())
