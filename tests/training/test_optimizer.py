"""The fused optimizer of trainings takes the same steps as the plain one."""

from __future__ import annotations

import torch

from models.config import NetworkConfig
from models.rlip import RLIP
from pipeline.training.settings import TrainingSettings
from pipeline.training.trainer import make_optimizer
from tests.training.conftest import NETWORK


def test_fused_steps_are_plain_steps():
    settings = TrainingSettings(network=NETWORK, lr=1e-2, weight_decay=0.1)
    ends = []
    for plain in (False, True):
        torch.manual_seed(0)
        network = RLIP(NetworkConfig.from_dict(settings.network), None)
        optimizer = make_optimizer(network, settings)
        assert all(group["fused"] for group in optimizer.param_groups)
        if plain:
            groups = [{"params": group["params"]} for group in optimizer.param_groups]
            optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, foreach=False)
        for _ in range(3):
            for parameter in network.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        ends.append([parameter.detach() for parameter in network.parameters()])
    for fused, plain in zip(*ends, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-6, rtol=1e-5)
