"""Synchronises gradients, losses and stop requests of all training processes in one collective after a backward pass.

This is not DistributedDataParallel, because that rearranges its gradient buckets after the first step. With three or more
processes, the order of summation and so the last bits of the weights would depend on where a training was resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The rank and device of this process, and the number of processes in its training."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class SyncedGradients:
    """The result of a synchronisation, the same in every process."""

    losses: dict[str, float]
    norm: float
    """Norm of the mean gradient."""
    stop: bool
    """Whether any process was asked to stop."""


def gathered(found: Mapping[int, str], ranks: Ranks) -> dict[int, str]:
    """Returns what all processes have found, the same in every process."""
    if ranks.count == 1:
        return dict(found)
    every: list[Mapping[int, str] | None] = [None] * ranks.count
    dist.all_gather_object(every, dict(found))
    return {number: reason for each in every if each for number, reason in each.items()}


def sync_gradients(
    parameters: Sequence[Tensor], losses: Mapping[str, Tensor], stop: bool, ranks: Ranks
) -> SyncedGradients:
    """Replaces each parameter's gradient by its mean over all processes, and averages the losses.

    A parameter without a gradient in any process keeps none, so that the optimizer leaves it alone.
    """
    device = ranks.device
    has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in parameters]
        + [has.to(device)]
        + [torch.stack([value.detach().float() for value in losses.values()])]
        + [torch.tensor([float(stop)], device=device)]
    )
    if ranks.count > 1:
        dist.all_reduce(flat)
    sizes = [parameter.numel() for parameter in parameters]
    *gradients, used, means, stops = torch.split(flat, [*sizes, len(parameters), len(losses), 1])
    for parameter, gradient, any_has in zip(parameters, gradients, used.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter).div_(ranks.count) if any_has else None
    norm = float(flat[: sum(sizes)].norm())
    values = (means / ranks.count).tolist()
    return SyncedGradients(dict(zip(losses, values, strict=True)), norm, bool(stops.item() > 0))
