"""Gated bidirectional attention between image tokens and texts (docs/networks.md, 3).

Shapes: B images, V image tokens, T texts, D image width, E text width, M heads, C channels per head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import NetworkConfig


class Fusion(nn.Module):
    """Lets image tokens read from texts and texts from image tokens, by one table of logits; each has a gate.

    The residual starts from the layer-normalised input, as in the authors' code: out = LN(x) + gate * delta.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.gate = config.gate
        self.layer_norm_v = nn.LayerNorm(config.width)
        self.layer_norm_l = nn.LayerNorm(config.text.hidden)
        self.attn = _BidirectionalAttention(config)
        if self.gate != "none":
            sizes = (1, 1) if self.gate == "VXAc" else (config.width, config.text.hidden)
            self.gamma_v, self.gamma_l = (nn.Parameter(torch.full((size,), 1 / config.levels)) for size in sizes)

    def forward(
        self, image_BVD: Tensor, position_BVD: Tensor, texts_BTE: Tensor, padding_BV: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns updated image tokens B×V×D and texts B×T×E. Texts do not read image tokens whose padding is True.

        `texts_BTE` and `position_BVD` may have a batch size of 1, shared by all images.
        """
        image_BVD, texts_BTE = self.layer_norm_v(image_BVD), self.layer_norm_l(texts_BTE)
        delta_BVD, delta_BTE = self.attn(image_BVD, position_BVD, texts_BTE, padding_BV)
        if self.gate != "none":
            delta_BVD, delta_BTE = self.gamma_v * delta_BVD, self.gamma_l * delta_BTE
        return image_BVD + delta_BVD, texts_BTE + delta_BTE


class _BidirectionalAttention(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.fusion_heads, config.text.dropout
        self.scale = (config.fusion_width // config.fusion_heads) ** -0.5
        self.v_proj = nn.Linear(config.width, config.fusion_width)
        self.l_proj = nn.Linear(config.text.hidden, config.fusion_width)
        self.values_v_proj = nn.Linear(config.width, config.fusion_width)
        self.values_l_proj = nn.Linear(config.text.hidden, config.fusion_width)
        self.out_v_proj = nn.Linear(config.fusion_width, config.width)
        self.out_l_proj = nn.Linear(config.fusion_width, config.text.hidden)

    def forward(
        self, image_BVD: Tensor, position_BVD: Tensor, texts_BTE: Tensor, padding_BV: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        query_BMVC = self._heads(self.v_proj(image_BVD + position_BVD) * self.scale)
        key_BMTC = self._heads(self.l_proj(texts_BTE))
        image_BMVC = self._heads(self.values_v_proj(image_BVD))
        texts_BMTC = self._heads(self.values_l_proj(texts_BTE))
        logits_BMVT = query_BMVC @ key_BMTC.transpose(2, 3)
        to_image_BMVT = self._drop(logits_BMVT.softmax(3))
        if padding_BV is not None:
            logits_BMVT = logits_BMVT.masked_fill(padding_BV[:, None, :, None], float("-inf"))
        to_texts_BMTV = self._drop(logits_BMVT.transpose(2, 3).softmax(3))
        delta_BVD = self.out_v_proj((to_image_BMVT @ texts_BMTC).transpose(1, 2).flatten(2))
        delta_BTE = self.out_l_proj((to_texts_BMTV @ image_BMVC).transpose(1, 2).flatten(2))
        return delta_BVD, delta_BTE

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout, self.training)
