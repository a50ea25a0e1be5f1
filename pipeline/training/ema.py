"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averages of a network's trained parameters: after each step, `decay` of the old average and the rest of the weight."""

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
