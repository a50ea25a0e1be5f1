"""Layers that the parts of the networks share: attention, feed-forward networks, perceptrons, position encodings.

Shapes: B images, Q queries, D width, H×W a feature map, N rows, F hidden width, ... any leading axes.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention as in DETR: positions enter queries and keys, but not values.

    It has the parameter names of torch.nn.MultiheadAttention.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, content_BQD: Tensor, position_BQD: Tensor | None, key_padding_mask_BQ: Tensor | None) -> Tensor:
        """Returns B×Q×D. Queries whose `key_padding_mask_BQ` is True are not attended to; each row needs one False."""
        width = content_BQD.shape[-1]
        placed_BQD = content_BQD if position_BQD is None else content_BQD + position_BQD
        query, key = F.linear(placed_BQD, self.in_proj_weight[: 2 * width], self.in_proj_bias[: 2 * width]).chunk(
            2, dim=-1
        )
        value = F.linear(content_BQD, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :])
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        seen = None if key_padding_mask_BQ is None else ~key_padding_mask_BQ[:, None, None]
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def feed_forward(
    x_ND: Tensor, inner: nn.Module, activation: nn.Module, dropout: nn.Dropout, outer: nn.Module
) -> Tensor:
    """Returns N×D: a linear layer, ReLU, dropout and another linear layer.

    On a CPU with oneDNN, the ReLU is applied where the product is written, without a separate pass.

    A compiler fuses by itself, and does not see through oneDNN's kernels. Their ReLU turns NaN into 0: a damaged weight
    of `inner` is found where weights are loaded, not in the result.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_ND.dtype
    # Exact types, because subclasses and replacements, e.g. packed layers, compute something else.
    plain = type(inner) is nn.Linear and type(outer) is nn.Linear and type(activation) is nn.ReLU
    drops = dropout.training and dropout.p > 0
    if plain and not drops and not torch.compiler.is_compiling() and can_pack(x_ND.device, dtype):
        cast = (x.to(dtype) for x in (x_ND, inner.weight, inner.bias, outer.weight, outer.bias))
        fused: Tensor = _FeedForward.apply(*cast)
        return fused
    outer_ND: Tensor = outer(dropout(activation(inner(x_ND))))
    return outer_ND


class _FeedForward(torch.autograd.Function):
    """Computes the same with fewer passes over the hidden values, which are many."""

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
        # In place: the hidden values are many, and nothing else reads their gradient.
        torch.ops.aten.threshold_backward.grad_input(of_hidden_NF, hidden_NF, 0, grad_input=of_hidden_NF)
        of_inner_FD = of_hidden_NF.T @ x_ND
        return of_hidden_NF @ inner_FD, of_inner_FD, of_hidden_NF.sum(0), of_outer_DF, of_outer_ND.sum(0)


class Perceptron(nn.Module):
    """Linear layers with ReLU between them, for boxes, anchors and query scales."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs] + [hidden] * (layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ...×inputs to ...×outputs."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def box_head(width: int, from_point: bool) -> Perceptron:
    """Builds a head that predicts the change of a box in logits, initially none.

    `from_point`: the head starts from a point, so the box's size starts small instead of at half of the image.
    """
    head = Perceptron(width, width, 4, 3)
    last = head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if from_point:
        nn.init.constant_(last.bias.detach()[2:], -2.0)
    return head


def point_head(width: int) -> nn.Linear:
    """Builds a layer that predicts a point in logits from a query's position."""
    head = nn.Linear(width, 2)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head


TEMPERATURE = 10000.0


def encode_map(valid_BHW: Tensor, width: int, first: float = 1.0) -> Tensor:
    """Returns B×H·W×width sine encodings of a map's positions (DETR): half the features for y, then half for x.

    Positions count valid cells from `first` on and are normalised by their number, so padding does not move them.
    """
    # In whole numbers: a GPU adds up others in no fixed order, of which PyTorch warns.
    y_BHW = valid_BHW.cumsum(1, dtype=torch.int32)
    x_BHW = valid_BHW.cumsum(2, dtype=torch.int32)
    y_BHW = (y_BHW + (first - 1)) / (y_BHW[:, -1:, :] + 1e-6)
    x_BHW = (x_BHW + (first - 1)) / (x_BHW[:, :, -1:] + 1e-6)
    return torch.cat((_waves(y_BHW, width // 2), _waves(x_BHW, width // 2)), dim=-1).flatten(1, 2)


def encode_boxes(boxes_BQ4: Tensor, width: int) -> Tensor:
    """Returns B×Q×2·width sine encodings of cxcywh boxes (DAB-DETR), in the order y, x, width, height."""
    x, y, w, h = boxes_BQ4.unbind(-1)
    return _waves(torch.stack((y, x, w, h), dim=-1), width // 2).flatten(2)


def _waves(positions: Tensor, features: int) -> Tensor:
    """Returns ...×features: sine on even, cosine on odd features, one frequency per pair; positions are in [0, 1]."""
    pair = torch.arange(features // 2, dtype=torch.float32, device=positions.device)
    angle = positions[..., None] * (2 * math.pi) / TEMPERATURE ** (2 * pair / features)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


class PackedLinear(nn.Module):
    """A linear layer for inference: `x @ weight.T + bias` for any number of rows, in the dtype of its weight.

    On a CPU with oneDNN the weight is packed once, whereas `F.linear` repacks it, or reads it badly, at every call.
    Elsewhere this is `F.linear`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        dtype: torch.dtype | None = None,
        then: Literal["none", "relu"] = "none",
        typical_rows: int = 2048,
        least_rows: int = 1,
    ) -> None:
        """`then` is applied to the product before it is written; the layout is chosen for `typical_rows`.

        Fewer than `least_rows` rows are padded to that number, because kernels for few rows round differently.
        """
        super().__init__()
        dtype = dtype or weight.dtype
        self._then, self._least_rows = then, least_rows
        dense = weight.detach().to(dtype).contiguous()
        self._packs = can_pack(dense.device, dense.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(dense, typical_rows) if self._packs else dense
        self._bias = None if bias is None else bias.detach().to(dtype).contiguous()

    @classmethod
    def of(cls, *layers: nn.Linear, **layout: Any) -> PackedLinear:
        """Merges layers that read the same rows; their outputs lie side by side. `layout`: as for the constructor."""
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        return cls(weight, bias, **layout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps …×D to …×D'."""
        rows = len(x)
        if rows < self._least_rows:
            return self.forward(F.pad(x, (0, 0, 0, self._least_rows - rows)))[:rows]
        x = x.to(self._weight.dtype)
        if not self._packs:
            product = F.linear(x, self._weight, self._bias)
            return product.relu() if self._then == "relu" else product
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._then, [], "")
        return packed


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed kernels exist. For bfloat16, the processor itself must support it."""
    onednn: Any = torch.backends.mkldnn
    kernels: Any = torch.ops.mkldnn
    exist = all(hasattr(kernels, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    if device.type != "cpu" or not onednn.is_available() or not exist:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(kernels._is_mkldnn_bf16_supported()))
