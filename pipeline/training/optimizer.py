"""AdamW over three groups of parameters, their learning rates, and clipping of the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipeline.training.settings import TrainingSettings

GROUPS = {"backbone": "lr_backbone", "text_encoder": "lr_text", "": "lr"}
"""Part of a parameter's name → the setting with its learning rate. The first that fits counts."""


def _rate_of(name: str) -> str:
    """Returns the setting with the learning rate of a parameter."""
    return next(setting for part, setting in GROUPS.items() if part in name)


def freeze(network: nn.Module, settings: TrainingSettings) -> None:
    """Excludes parameters whose learning rate is 0 from the gradient and its norm."""
    for name, parameter in network.named_parameters():
        if getattr(settings, _rate_of(name)) == 0:
            parameter.requires_grad_(False)


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Builds AdamW over the parameters that are trained, one group for each of `GROUPS`."""
    groups: dict[str, list[nn.Parameter]] = {setting: [] for setting in GROUPS.values()}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[_rate_of(name)].append(parameter)
    return torch.optim.AdamW(
        [{"params": members} for members in groups.values()],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        # One pass over the weights instead of ten, without copies. Weights, gradients and averages must have the same
        # memory layout, so no weight is channels-last.
        fused=True,
    )


def set_rates(optimizer: torch.optim.Optimizer, settings: TrainingSettings, step: int, total: int) -> dict[str, float]:
    """Sets the learning rates of a step, counted from 0. Returns them by the names of their settings."""
    factor = schedule(settings, step, total) * settings.lr_scale
    rates = {name: getattr(settings, name) * factor for name in GROUPS.values()}
    for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
        group["lr"] = rate
    return rates


def schedule(settings: TrainingSettings, step: int, total: int) -> float:
    """Returns the factor of the learning rates at a step."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    done = step / total
    if settings.schedule == "step":
        return warm * (0.1 if done >= settings.drop_at else 1.0)
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Returns the norm of the gradient over all parameters, including those sharded across processes."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def update(optimizer: torch.optim.Optimizer, norm: float, largest: float) -> None:
    """Takes a step with the gradient, which has this norm, scaled down to the largest that is allowed."""
    # 1e-6 as in torch's clip_grad_norm_
    factor = largest / (norm + 1e-6)
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    divisor: Tensor | None = None
    if factor < 1 and isinstance(gradients[0], DTensor):
        # Torch's operators can't mix sharded tensors with plain ones, such as a divisor.
        torch._foreach_mul_(gradients, factor)
    elif factor < 1:
        divisor = torch.full((), 1 / factor, device=gradients[0].device)
    # A fused optimizer divides each gradient where it reads it, which saves a pass over all of them.
    optimizer.grad_scale = divisor  # type: ignore[attr-defined]
    optimizer.step()


class Ema:
    """Averages of a network's trained parameters: after a step, `decay` of the old one and the rest of the weight."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._decay = decay
        self.averages: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after a step."""
        weights = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averages as its weights inside this context."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            weight = parameter.detach().clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(weight)
