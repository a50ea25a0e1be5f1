"""BLIP's image encoder: same weights and results as transformers', with packed weights and fused attention.

Legend: B images, S image states (patches and the class token), H heads, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.captioning.attention import attend
from pipeline.captioning.packed_linear import PackedLinear


class ImageEncoder:
    """Runs the layers of a transformers `BlipVisionModel`.

    Images go one by one: an image's states then can't depend on its neighbours, and what lies between two products
    stays in the processor's cache.
    """

    def __init__(self, model: Any) -> None:
        self._embeddings = model.embeddings
        self._layers = [_Layer(layer) for layer in model.encoder.layers]
        self._last_norm = model.post_layernorm

    def __call__(self, pixels_B3HW: Tensor) -> Tensor:
        """The states of each image, B x S x D, of normalised pixels."""
        return torch.stack([self._encode(pixels_3HW) for pixels_3HW in pixels_B3HW])

    def _encode(self, pixels_3HW: Tensor) -> Tensor:
        hidden_SD = self._embeddings(pixels_3HW[None])[0]
        for layer in self._layers:
            hidden_SD = layer(hidden_SD)
        states_SD: Tensor = self._last_norm(hidden_SD)
        return states_SD


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

    def __call__(self, hidden_SD: Tensor) -> Tensor:
        states, width = hidden_SD.shape
        mixed = self._mixed(self._norm_before_attention(hidden_SD))
        query, key, value = mixed.view(1, states, 3, self._heads, width // self._heads).transpose(1, 3).unbind(2)
        attended = attend(query, key, value).transpose(1, 2).reshape(states, width)
        hidden_SD = hidden_SD + self._projection(attended)
        inner = self._activation(self._inner(self._norm_before_mlp(hidden_SD)))
        return hidden_SD + self._outer(inner)
