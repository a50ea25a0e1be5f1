"""Multi-head self-attention as in DETR: positions enter queries and keys, but not values.

Shapes: B batch, Q queries, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameter names of torch.nn.MultiheadAttention."""

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
