"""A post-norm transformer layer over the set of label texts (docs/networks.md, 3).

Shapes: B images, T texts, D hidden width of the text encoder.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import TextConfig


class LanguageLayer(nn.Module):
    """RoBERTa's layer without positions, so that the order of texts does not matter. Parameter names are RoBERTa's."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Dense(config.hidden, config.feedforward)
        self.output = _Output(config.feedforward, config)

    def forward(self, texts_BTD: Tensor, key_padding_mask_BT: Tensor | None) -> Tensor:
        """Returns B×T×D. Texts whose `key_padding_mask_BT` is True are not attended to."""
        attended_BTD = self.attention(texts_BTD, key_padding_mask_BT)
        inner = F.gelu(self.intermediate.dense(attended_BTD))
        return self.output(inner, attended_BTD)


class _Attention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.self = nn.ModuleDict({n: nn.Linear(config.hidden, config.hidden) for n in ("query", "key", "value")})
        self.output = _Output(config.hidden, config)

    def forward(self, texts_BTD: Tensor, key_padding_mask_BT: Tensor | None) -> Tensor:
        query, key, value = (
            self.self[name](texts_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        seen = None if key_padding_mask_BT is None else ~key_padding_mask_BT[:, None, None]
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=self.dropout if self.training else 0.0
        )
        return self.output(mixed.transpose(1, 2).flatten(2), texts_BTD)


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)


class _Output(nn.Module):
    def __init__(self, inputs: int, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inner_BTD: Tensor, residual_BTD: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(inner_BTD)) + residual_BTD)
