"""The step of the optimizer with a gradient that is clipped."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.training.optimizer import gradient_norm, make_optimizer, update
from pipeline.training.settings import TrainingSettings


@pytest.mark.parametrize("largest", [0.1, 1e3])
def test_steps_are_those_with_a_clipped_gradient(largest):
    torch.manual_seed(0)
    ours = nn.ModuleDict({"backbone": nn.Linear(5, 7), "text_encoder": nn.Linear(7, 3), "head": nn.Linear(3, 2)})
    theirs = copy.deepcopy(ours)
    optimizers = [make_optimizer(network, TrainingSettings(lr=1e-2)) for network in (ours, theirs)]
    for step in range(3):
        for network in (ours, theirs):
            network.zero_grad()
            draws = torch.Generator().manual_seed(step)
            x = torch.randn(6, 5, generator=draws)
            # Large gradients in one step, small ones in the next: the scale of one must not stay for the other.
            for layer in network.values():
                x = layer(x)
            (x.square().sum() * 10.0 ** (1 - 2 * (step % 2))).backward()
        parameters = list(ours.parameters())
        update(optimizers[0], gradient_norm(parameters).item(), largest)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), largest)
        optimizers[1].step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
