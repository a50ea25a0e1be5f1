"""The feed-forward network of a layer, with and without the CPU's fused kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import layers
from models.layers import feed_forward


def _results(dtype, dropout=0.0):
    """The output and all gradients, from one seed."""
    torch.manual_seed(0)
    inner, outer, drop = nn.Linear(8, 24), nn.Linear(24, 8), nn.Dropout(dropout)
    x = torch.randn(20, 8, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        read = feed_forward(x, inner, nn.ReLU(inplace=True), drop, outer)
    gradients = torch.autograd.grad(read.float().square().sum(), [x, *inner.parameters(), *outer.parameters()])
    return read, *gradients


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_kernels_compute_the_same(monkeypatch, dtype, dropout):
    fused = _results(dtype, dropout)
    monkeypatch.setattr(layers, "can_pack", lambda device, dtype: False)
    near = 1e-5 if dtype == torch.float32 else 2e-2
    for one, other in zip(fused, _results(dtype, dropout), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=near, rtol=near)


def test_torch_compile_takes_it_whole():
    torch.manual_seed(0)
    inner, outer, x = nn.Linear(8, 24), nn.Linear(24, 8), torch.randn(20, 8, requires_grad=True)
    parts = inner, nn.ReLU(), nn.Dropout(0.0), outer
    compiled = torch.compile(lambda x: feed_forward(x, *parts), backend="aot_eager", fullgraph=True)
    for function in (compiled, lambda x: feed_forward(x, *parts)):
        function(x).square().sum().backward()
    once = torch.autograd.grad(feed_forward(x, *parts).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, 2 * once)
