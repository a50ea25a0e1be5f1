"""A linear layer for inference whose weight is laid out once for the CPU's matrix kernels.

Shapes: N rows, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PackedLinear(nn.Module):
    """Computes `x @ weight.T + bias` for any number of rows, in the dtype of its weight.

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
        given = x.to(self._weight.dtype)
        if not self._packs:
            product = F.linear(given, self._weight, self._bias)
            return product.relu() if self._then == "relu" else product
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._weight, self._bias, self._then, [], "")
        return packed


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed kernels exist. For bfloat16, the processor itself must support it."""
    onednn: Any = torch.backends.mkldnn
    kernels: Any = torch.ops.mkldnn
    exist = all(hasattr(kernels, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    if device.type != "cpu" or not onednn.is_available() or not exist:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(kernels._is_mkldnn_bf16_supported()))
