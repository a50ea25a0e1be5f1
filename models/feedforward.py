"""The feed-forward network of a transformer layer: a linear layer, ReLU, dropout and another linear layer.

Shapes: N rows, D width, F hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.packed_linear import can_pack


def feed_forward(
    x_ND: Tensor, inner: nn.Module, activation: nn.Module, dropout: nn.Dropout, outer: nn.Module
) -> Tensor:
    """Returns N×D. On a CPU with oneDNN, the ReLU is applied where the product is written, without a pass of its own.

    A compiler fuses by itself, and does not see through oneDNN's kernels. Their ReLU makes 0 of NaN: a damaged weight of
    `inner` is found where weights are loaded, not in the result.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_ND.dtype
    plain = type(inner) is nn.Linear and type(outer) is nn.Linear and type(activation) is nn.ReLU
    drops = dropout.training and dropout.p > 0
    if plain and not drops and not torch.compiler.is_compiling() and can_pack(x_ND.device, dtype):
        given = (x.to(dtype) for x in (x_ND, inner.weight, inner.bias, outer.weight, outer.bias))
        fused: Tensor = _FeedForward.apply(*given)
        return fused
    outer_ND: Tensor = outer(dropout(activation(inner(x_ND))))
    return outer_ND


class _FeedForward(torch.autograd.Function):
    """Computes the same, with fewer passes over the hidden numbers, which are many."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, inner_FD: Tensor, inner_F: Tensor, outer_DF: Tensor, outer_D: Tensor) -> Tensor:
        hidden_NF = torch.ops.mkldnn._linear_pointwise(x_ND, inner_FD, inner_F, "relu", [], "")
        ctx.save_for_backward(x_ND, inner_FD, outer_DF, hidden_NF)
        return F.linear(hidden_NF, outer_DF, outer_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outer_ND: Tensor) -> tuple[Tensor, ...]:
        x_ND, inner_FD, outer_DF, hidden_NF = ctx.saved_tensors
        of_hidden_NF = of_outer_ND @ outer_DF
        of_outer_DF = of_outer_ND.T @ hidden_NF
        torch.ops.aten.threshold_backward.grad_input(of_hidden_NF, hidden_NF, 0, grad_input=of_hidden_NF)
        of_inner_FD = of_hidden_NF.T @ x_ND
        return of_hidden_NF @ inner_FD, of_inner_FD, of_hidden_NF.sum(0), of_outer_DF, of_outer_ND.sum(0)
