"""Fuses images and texts, by gated attention in the encoder (ALIF), or at the end as in RLIPv1 (docs/networks.md, 3).

Shapes: B images, V image tokens, Q queries, T texts, D image width, E text width, M heads, C channels per head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RobertaConfig
from transformers.models.roberta.modeling_roberta import RobertaLayer

from models.config import NetworkConfig, TextConfig
from models.layers import SelfAttention


class Fusion(nn.Module):
    """Gated attention: image tokens read from texts and texts from image tokens, by one table of logits.

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
        # Masked only now: in the softmax over texts, the row of a token of padding would be NaN.
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


class LanguageLayer(RobertaLayer):
    """RoBERTa's transformer layer over the set of label texts, without positions, so their order does not matter."""

    def __init__(self, config: TextConfig) -> None:
        settings = RobertaConfig(
            hidden_size=config.hidden,
            num_attention_heads=config.heads,
            intermediate_size=config.feedforward,
            layer_norm_eps=1e-5,  # of roberta-base; the default of its class is BERT's 1e-12
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        )
        # Only a whole model chooses an implementation for its layers.
        settings._attn_implementation = "sdpa"
        super().__init__(settings)

    def forward(self, texts_BTD: Tensor, key_padding_mask_BT: Tensor | None) -> Tensor:
        """Returns B×T×D. Texts whose `key_padding_mask_BT` is True are not attended to."""
        seen = None if key_padding_mask_BT is None else ~key_padding_mask_BT[:, None, None]
        mixed_BTD: Tensor = super().forward(texts_BTD, seen)
        return mixed_BTD


class LateFusion(nn.Module):
    """RLIPv1's cross-modal encoder over one sequence of decoded queries and texts (RLIP-ParSeD, Yuan et al., 2022).

    The image tokens never see the texts.

    It has as many layers as a decoder; in the heads, each of them stands for a decoder layer.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_LateLayer(config) for _ in range(config.decoder_layers))
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


class _LateLayer(nn.Module):
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
