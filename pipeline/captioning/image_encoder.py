"""BLIP's image encoder: same weights and results as transformers', with packed weights and fused attention.

Legend: B images, S image states (patches and the class token), N rows (image * S + state), H heads, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.captioning.attention import attend
from pipeline.captioning.packed_linear import PackedLinear


class ImageEncoder:
    """Runs the layers of a transformers `BlipVisionModel`.

    On the CPU images go one by one: an image's states then can't depend on its neighbours, and what lies between two
    products stays in the processor's cache. A GPU takes them together.
    """

    def __init__(self, model: Any) -> None:
        self._embeddings = model.embeddings
        self._layers = [_Layer(layer) for layer in model.encoder.layers]
        self._last_norm = model.post_layernorm

    def __call__(self, pixels_B3HW: Tensor) -> Tensor:
        """The states of each image, B x S x D, of normalised pixels."""
        if pixels_B3HW.device.type != "cpu":
            return self._encode(pixels_B3HW)
        return torch.cat([self._encode(pixels_B3HW[i : i + 1]) for i in range(len(pixels_B3HW))])

    def _encode(self, pixels_B3HW: Tensor) -> Tensor:
        embedded_BSD = self._embeddings(pixels_B3HW)
        images, states, width = embedded_BSD.shape
        hidden_ND = embedded_BSD.reshape(images * states, width)
        for layer in self._layers:
            hidden_ND = layer(hidden_ND, images)
        normed_ND: Tensor = self._last_norm(hidden_ND)
        return normed_ND.view(images, states, width)


class _Layer:
    """One layer: self-attention, then feed-forward, each on normalised states and added to them."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._heads: int = attention.num_heads
        self._norm_before_attention, self._norm_before_mlp = layer.layer_norm1, layer.layer_norm2
        self._mixed, self._projection = PackedLinear.of(attention.qkv), PackedLinear.of(attention.projection)
        self._inner, self._outer, self._activation = (
            PackedLinear.of(mlp.fc1),
            PackedLinear.of(mlp.fc2),
            mlp.activation_fn,
        )

    def __call__(self, hidden_ND: Tensor, images: int) -> Tensor:
        rows, width = hidden_ND.shape
        mixed = self._mixed(self._norm_before_attention(hidden_ND))
        mixed = mixed.view(images, rows // images, 3, self._heads, width // self._heads)
        query, key, value = mixed.transpose(1, 3).unbind(2)
        attended = attend(query, key, value).transpose(1, 2).reshape(rows, width)
        hidden_ND = hidden_ND + self._projection(attended)
        inner = self._activation(self._inner(self._norm_before_mlp(hidden_ND)))
        return hidden_ND + self._outer(inner)
