"""One layer of BLIP's text network, as the decoder and the matching head run it: packed products, shared image keys.

Legend: B images, G sequences, N rows, S image states, T positions, H heads, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.captioning.attention import attend
from pipeline.captioning.packed_linear import PackedLinear

ImageKeys = tuple[Tensor, Tensor]
"""Keys and values of images, B x H x S x (D/H) each."""


class TextLayer:
    """Self-attention, cross-attention to the image, feed-forward: a transformers `BlipTextLayer`."""

    def __init__(self, layer: Any) -> None:
        own, cross = layer.attention.self, layer.crossattention.self
        self._heads: int = own.num_attention_heads
        self._own = PackedLinear.of(own.query, own.key, own.value)
        self._own_output = _AddAndNorm(layer.attention.output)
        self._cross_query, self._image_keys = PackedLinear.of(cross.query), PackedLinear.of(cross.key, cross.value)
        self._cross_output = _AddAndNorm(layer.crossattention.output)
        self._inner, self._activation = (
            PackedLinear.of(layer.intermediate.dense),
            layer.intermediate.intermediate_act_fn,
        )
        self._outer = _AddAndNorm(layer.output)

    def image_keys(self, states_BSD: Tensor) -> ImageKeys:
        """Keys and values of the images."""
        keys, values = [], []
        for states_SD in states_BSD:
            both = self._image_keys(states_SD).view(len(states_SD), 2, self._heads, -1).permute(1, 2, 0, 3).contiguous()
            keys.append(both[0])
            values.append(both[1])
        return torch.stack(keys), torch.stack(values)

    def read(self, hidden_ND: Tensor, image: ImageKeys, sequences: int, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output for whole sequences, (G*T) x D, as many for each image, and their own keys and values.

        `seen` (bool, broadcast to G x H x T x T) tells which positions see which.
        """
        rows = len(hidden_ND)
        mixed = self._own(hidden_ND).view(sequences, rows // sequences, 3, self._heads, -1)
        query, key, value = mixed.transpose(1, 3).unbind(2)
        attended_ND = attend(query, key, value, seen).transpose(1, 2).reshape(rows, -1)
        row_N = torch.arange(rows, device=hidden_ND.device)
        return self._after_own(hidden_ND, attended_ND, image, row_N, rows // len(image[0])), key, value

    def step(
        self, hidden_ND: Tensor, own: tuple[Tensor, Tensor], image: ImageKeys, length: int, row_N: Tensor, places: int
    ) -> Tensor:
        """The layer's output for one more position of rows whose first `length` positions are in the cache `own`.

        Row number r, of those that `row_N` lists, looks at image r // places.
        """
        rows, (keys, values), until = len(hidden_ND), own, length + 1
        query, key, value = self._own(hidden_ND).view(rows, 3, self._heads, -1).unbind(1)
        keys[:, :, length], values[:, :, length] = key, value
        attended = attend(query[:, :, None], keys[:, :, :until], values[:, :, :until])
        return self._after_own(hidden_ND, attended.reshape(rows, -1), image, row_N, places)

    def _after_own(
        self, hidden_ND: Tensor, attended_ND: Tensor, image: ImageKeys, row_N: Tensor, places: int
    ) -> Tensor:
        hidden_ND = self._own_output(attended_ND, hidden_ND)
        hidden_ND = self._cross_output(self._attend_image(hidden_ND, image, row_N, places), hidden_ND)
        return self._outer(self._activation(self._inner(hidden_ND)), hidden_ND)

    def _attend_image(self, hidden_ND: Tensor, image: ImageKeys, row_N: Tensor, places: int) -> Tensor:
        keys, values = image
        images = len(keys)
        query_ND = self._cross_query(hidden_ND)
        gaps = len(row_N) < images * places
        if gaps:
            # Queries are laid out as images x places, so that an image's keys are read once for all of its rows.
            query_ND = query_ND.new_zeros(images * places, query_ND.shape[1]).index_copy_(0, row_N, query_ND)
        query = query_ND.view(images, places, self._heads, -1).transpose(1, 2)
        attended = attend(query, keys, values).transpose(1, 2).reshape(images * places, -1)
        return attended[row_N] if gaps else attended


class _AddAndNorm:
    """A product, added to what went in before it, normalised."""

    def __init__(self, output: Any) -> None:
        self._dense, self._norm = PackedLinear.of(output.dense), output.LayerNorm

    def __call__(self, update_ND: Tensor, residual_ND: Tensor) -> Tensor:
        normed: Tensor = self._norm(self._dense(update_ND) + residual_ND)
        return normed
