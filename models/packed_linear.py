"""A linear layer for inference whose weight is laid out once for the processor's matrix kernels.

Shapes: N rows, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PackedLinear(nn.Module):
    """`x @ weight.T + bias` for any number of rows, in the dtype of its weight.

    On a CPU with oneDNN the weight is packed once: `F.linear` repacks it, or reads it badly, at every call. Elsewhere it is
    `F.linear`.
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
        """`then`: what is applied to the product before it is written. `typical_rows`: what the layout is chosen for.

        Products with fewer than `least_rows` rows are padded to that number, because kernels for few rows round differently.
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
        """One product for layers that read the same rows, their outputs side by side. `layout`: as for the constructor."""
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        return cls(weight, bias, **layout)

    def forward(self, x: Tensor) -> Tensor:
        """…×D' of …×D."""
        rows = len(x)
        if rows < self._least_rows:
            return self.forward(F.pad(x, (0, 0, 0, self._least_rows - rows)))[:rows]
        given = x.to(self._weight.dtype)
        if not self._packs:
            product = F.linear(given, self._weight, self._bias)
            return product.relu() if self._then == "relu" else product
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._weight, self._bias, self._then, [], "")
        return packed


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether such kernels exist. For bfloat16, the processor itself has to compute with it."""
    onednn: Any = torch.backends.mkldnn
    kernels: Any = torch.ops.mkldnn
    exist = all(hasattr(kernels, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    if device.type != "cpu" or not onednn.is_available() or not exist:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(kernels._is_mkldnn_bf16_supported()))
