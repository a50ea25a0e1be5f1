"""A linear layer whose weight is laid out once for the processor's matrix kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_ROWS = 16
"""Products with fewer rows are padded: CPU kernels for few rows round differently, and a caption must not depend on
how many others are in the batch."""
_TYPICAL_ROWS = 320
"""What the layout is chosen for; it works for any number of rows."""


class PackedLinear:
    """`x @ weight.T + bias` for rows x of any number; a row's result does not depend on the others.

    On a CPU with oneDNN the weight is packed once (`F.linear` repacks, or reads badly, at every call: with few rows
    that costs as much as the product); elsewhere it is `F.linear`.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._bias = bias.detach().contiguous()
        self._packs = _can_pack(weight)
        dense = weight.detach().contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(dense, _TYPICAL_ROWS) if self._packs else dense

    @classmethod
    def of(cls, *layers: nn.Linear) -> PackedLinear:
        """One product for layers that read the same rows: their outputs side by side."""
        return cls(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))

    def __call__(self, rows_ND: Tensor) -> Tensor:
        """The product of each row."""
        rows = len(rows_ND)
        if rows < LEAST_ROWS:
            return self(F.pad(rows_ND, (0, 0, 0, LEAST_ROWS - rows)))[:rows]
        if not self._packs:
            return F.linear(rows_ND, self._weight, self._bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows_ND, self._weight, self._bias, "none", [], "")
        return product


def _can_pack(weight: Tensor) -> bool:
    kernels: Any = torch.ops.mkldnn
    onednn: Any = torch.backends.mkldnn
    if weight.device.type != "cpu" or not onednn.is_available():
        return False
    if not hasattr(kernels, "_reorder_linear_weight") or not hasattr(kernels, "_linear_pointwise"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(kernels._is_mkldnn_bf16_supported())
    )
