"""The processes of a training run, and the few things that they tell each other beside gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """The rank and device of this process, and the number of processes in its training."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def summed(self, values: Tensor) -> Tensor:
        """Returns the sum over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def every(self, found: Mapping[int, Value]) -> dict[int, Value]:
        """Returns what all processes have found, the same in every process."""
        if self.count == 1:
            return dict(found)
        every: list[Mapping[int, Value] | None] = [None] * self.count
        dist.all_gather_object(every, dict(found))
        return {number: reason for each in every if each for number, reason in each.items()}

    def agreed(self, value: Value) -> Value:
        """Returns the value of the first process in all."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]
