"""What training processes tell each other after a backward pass, in one collective: gradients, losses, who must stop.

Not DistributedDataParallel: it lays gradients out anew after its first step, so with three processes or more the order
of summation, and with it the last bits of the weights, would depend on where a training was resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of a training."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class SyncedGradients:
    """The same in every process."""

    losses: dict[str, float]
    norm: float
    """Norm of the mean gradient."""
    stop: bool
    """Whether any process was asked to stop."""


def sync_gradients(
    parameters: Sequence[Tensor], losses: Mapping[str, Tensor], stop: bool, ranks: Ranks
) -> SyncedGradients:
    """Replace each parameter's gradient by the mean over processes, and take the mean of the losses.

    A parameter that no process has a gradient for keeps none, so that the optimizer leaves it alone.
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
