"""RLIPv1's fusion: decoded queries and texts meet only at the end (RLIP, Yuan et al., 2022, RLIP-ParSeD).

Shapes: B images, Q queries, T texts, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import SelfAttention
from models.config import NetworkConfig


class LateFusion(nn.Module):
    """Cross-modal encoder over one sequence of decoded queries and texts; the image tokens never see the texts.

    It has as many layers as a decoder; in the heads, each of them stands for a decoder layer.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, queries_BQD: Tensor, texts_BTD: Tensor, key_padding_mask_BT: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Returns queries B×Q×D and texts B×T×D per layer. Texts with `key_padding_mask_BT` True are ignored."""
        count = queries_BQD.shape[1]
        x_BND = torch.cat((queries_BQD, texts_BTD), dim=1)
        key_padding_mask_BN = (
            None if key_padding_mask_BT is None else F.pad(key_padding_mask_BT, (count, 0), value=False)
        )
        fused: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            x_BND = layer(x_BND, key_padding_mask_BN)
            normed_BND = self.norm(x_BND)
            fused.append((normed_BND[:, :count], normed_BND[:, count:]))
        return fused


class _Layer(nn.Module):
    """A pre-norm transformer layer with the authors' parameter names."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config.width, config.heads, config.dropout)
        self.linear1 = nn.Linear(config.width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BND: Tensor, key_padding_mask_BN: Tensor | None) -> Tensor:
        x_BND = x_BND + self.dropout(self.self_attn(self.norm1(x_BND), None, key_padding_mask_BN))
        inner = self.dropout(F.relu_(self.linear1(self.norm2(x_BND))))
        return x_BND + self.dropout(self.linear2(inner))
