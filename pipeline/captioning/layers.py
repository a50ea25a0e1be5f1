"""BLIP's layers for inference: same weights and results as in transformers, with packed weights and fused attention.

Legend: B images, G sequences, N rows, S image states (patches and the class token), T positions, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import PackedLinear

LEAST_ROWS = 16
"""Products with fewer rows are padded to this number, because a caption must not depend on the size of its batch."""
TYPICAL_ROWS = 320
"""Number of rows that the layout of weights is chosen for; it works for any number."""


def packed(*layers: nn.Linear) -> PackedLinear:
    """Combine layers that read the same rows into one product. A row's result does not depend on the other rows."""
    return PackedLinear.of(*layers, typical_rows=TYPICAL_ROWS, least_rows=LEAST_ROWS)


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention: the softmax of scaled products of queries (… x Q x d) and keys (… x K x d), times values (… x K x d).

    `seen` (bool, broadcast to … x Q x K) is true for the keys that a query sees. On CPUs the fused kernel is the fastest
    in float32; in bfloat16 it converts block by block, and plain products take half the time.
    """
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        mixed: Tensor = scores.softmax(-1) @ value
        return mixed
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: products split over threads round differently with the number of rows. More cores serve more workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ImageEncoder:
    """Runs the layers of a transformers `BlipVisionModel`.

    On the CPU images go one by one: an image's states then can't depend on its neighbours, and intermediate results stay
    in the processor's cache. A GPU takes them together.
    """

    def __init__(self, model: Any) -> None:
        self._embeddings = model.embeddings
        self._layers = [_Layer(layer) for layer in model.encoder.layers]
        self._last_norm = model.post_layernorm

    def __call__(self, pixels_B3HW: Tensor) -> Tensor:
        """Encode normalised pixels into the states of each image, B x S x D."""
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
    """One layer: self-attention, then feed-forward, each on normalised states with a residual connection."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._heads: int = attention.num_heads
        self._norm_before_attention, self._norm_before_mlp = layer.layer_norm1, layer.layer_norm2
        self._mixed, self._projection = packed(attention.qkv), packed(attention.projection)
        self._inner, self._outer, self._activation = (
            packed(mlp.fc1),
            packed(mlp.fc2),
            mlp.activation_fn,
        )

    def __call__(self, hidden_ND: Tensor, images: int) -> Tensor:
        rows, width = hidden_ND.shape
        mixed = self._mixed(self._norm_before_attention(hidden_ND))
        mixed = mixed.view(images, rows // images, 3, self._heads, width // self._heads)
        query, key, value = mixed.transpose(1, 3).unbind(2)
        attended = attend(query, key, value).transpose(1, 2).reshape(rows, width)
        hidden_ND = hidden_ND + self._projection(attended)
        outer: Tensor = self._outer(self._activation(self._inner(self._norm_before_mlp(hidden_ND))))
        return hidden_ND + outer


ImageKeys = tuple[Tensor, Tensor]
"""Keys and values of images, B x H x S x (D/H) each."""


class TextLayer:
    """Runs a transformers `BlipTextLayer`: self-attention, cross-attention to the image, feed-forward."""

    def __init__(self, layer: Any) -> None:
        own, cross = layer.attention.self, layer.crossattention.self
        self._heads: int = own.num_attention_heads
        self._own = packed(own.query, own.key, own.value)
        self._own_output = _AddAndNorm(layer.attention.output)
        self._cross_query, self._image_keys = packed(cross.query), packed(cross.key, cross.value)
        self._cross_output = _AddAndNorm(layer.crossattention.output)
        self._inner, self._activation = (
            packed(layer.intermediate.dense),
            layer.intermediate.intermediate_act_fn,
        )
        self._outer = _AddAndNorm(layer.output)

    def image_keys(self, states_BSD: Tensor) -> ImageKeys:
        """Compute the keys and values of images."""
        keys, values = [], []
        for states_SD in states_BSD:
            both = self._image_keys(states_SD).view(len(states_SD), 2, self._heads, -1).permute(1, 2, 0, 3).contiguous()
            keys.append(both[0])
            values.append(both[1])
        return torch.stack(keys), torch.stack(values)

    def read(self, hidden_ND: Tensor, image: ImageKeys, sequences: int, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run whole sequences, equally many per image. Returns the output, (G*T) x D, and the sequences' own keys and values.

        `seen` (bool, broadcast to G x H x T x T) says which positions see which.
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
        """Run one more position of rows whose first `length` positions are in the cache `own`.

        `row_N` lists the numbers of the rows; row number r attends to image r // places.
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
    """A linear layer, the residual connection, then layer normalisation."""

    def __init__(self, output: Any) -> None:
        self._dense, self._norm = packed(output.dense), output.LayerNorm

    def __call__(self, update_ND: Tensor, residual_ND: Tensor) -> Tensor:
        normed: Tensor = self._norm(self._dense(update_ND) + residual_ND)
        return normed
