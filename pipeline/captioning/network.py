"""BLIP's network for inference: same weights and results as in transformers, with less work.

Weights are packed and attention is fused. The keys and values of an image are computed once and shared by its draws
(transformers repeats them for every draw), the prompt is read in one pass, and rows that have ended drop out of the
computation.
Legend: B images, R draws, G sequences, N live rows (a row is a draw of an image), S image states (patches and the class
token), T positions, H heads, D width, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import PackedLinear
from pipeline.captioning.captioner import ImageInput
from pipeline.data.images.resize import resized

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of pixels scaled to 0..1, by channel, as BLIP was trained."""
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
LEAST_ROWS = 16
"""Products with fewer rows are padded to this number, because a caption must not depend on the size of its batch."""
TYPICAL_ROWS = 320
"""Number of rows that the layout of weights is chosen for; it works for any number."""


def squared(images: Sequence[ImageInput], side: int) -> Tensor:
    """Turn images into squares of pixel values: B x 3 x side x side."""
    return torch.stack([_square(image, side) for image in images])


def _square(image: ImageInput, side: int) -> Tensor:
    if not isinstance(image, Tensor):
        return resized(torch.from_numpy(np.array(image)), side, side)
    if image.shape != (3, side, side):
        raise ValueError(f"pixels of shape {tuple(image.shape)}: the network takes 3 x {side} x {side}")
    return image


class Pixels:
    """Turns images into network input: B x 3 x side x side, normalised as the model's folder states.

    Images become squares without keeping their aspect ratio (docs/labels.md, Pixels).
    """

    def __init__(self, folder: Path, side: int, device: torch.device, dtype: torch.dtype) -> None:
        stated: dict[str, Any] = {}
        for name in ("preprocessor_config.json", "processor_config.json"):
            content = json.loads((folder / name).read_bytes()) if (folder / name).is_file() else {}
            # Newer folders nest these settings in those of the processor, where transformers looks first.
            stated |= content.get("image_processor", content)
        self._mean = 255 * torch.tensor(stated.get("image_mean", CLIP_MEAN), device=device).view(3, 1, 1)
        self._deviation = 255 * torch.tensor(stated.get("image_std", CLIP_DEVIATION), device=device).view(3, 1, 1)
        self.side, self._device, self._dtype = side, device, dtype

    def __call__(self, images: Sequence[ImageInput]) -> Tensor:
        """Prepare images in raw pixels, or pixel values at the side of the network."""
        levels = squared(images, self.side).to(self._device, non_blocking=True)
        return levels.sub_(self._mean).div_(self._deviation).to(self._dtype)


def packed(*layers: nn.Linear) -> PackedLinear:
    """Combine layers that read the same rows into one product. A row's result does not depend on the other rows."""
    return PackedLinear.of(*layers, typical_rows=TYPICAL_ROWS, least_rows=LEAST_ROWS)


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention: the softmax of scaled products of queries (… x Q x d) and keys (… x K x d), times values (… x K x d).

    `seen` (bool, broadcast to … x Q x K) is true for the keys that a query sees. On CPUs the fused kernel is the
    fastest in float32; in bfloat16 it converts block by block, and plain products take half the time.
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
    """Use one thread: products split over threads round differently with the number of rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ImageEncoder:
    """Runs the layers of a transformers `BlipVisionModel`.

    On the CPU images go one by one: an image's states then can't depend on its neighbours, and intermediate results
    stay in the processor's cache. A GPU takes them together.
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
        self._inner, self._outer, self._activation = packed(mlp.fc1), packed(mlp.fc2), mlp.activation_fn

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
        self._inner, self._activation = packed(layer.intermediate.dense), layer.intermediate.intermediate_act_fn
        self._outer = _AddAndNorm(layer.output)

    def image_keys(self, states_BSD: Tensor) -> ImageKeys:
        """Compute the keys and values of images."""
        keys, values = [], []
        # One image at a time, because a product with more rows may round differently.
        for states_SD in states_BSD:
            both = self._image_keys(states_SD).view(len(states_SD), 2, self._heads, -1).permute(1, 2, 0, 3).contiguous()
            keys.append(both[0])
            values.append(both[1])
        return torch.stack(keys), torch.stack(values)

    def read(self, hidden_ND: Tensor, image: ImageKeys, sequences: int, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run whole sequences, equally many per image. Returns the output, (G*T) x D, and their own keys and values.

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


@dataclass
class DecoderState:
    """What has been decoded so far. Rows are numbered image * draws + draw."""

    draws: int
    rows: Tensor
    """The numbers of the live rows, ascending."""
    length: int
    """Number of positions in the cache."""
    own: list[tuple[Tensor, Tensor]]
    """Keys and values of the rows' own tokens, per layer: N x H x T x (D/H)."""
    image: list[tuple[Tensor, Tensor]]
    """Keys and values of the images, per layer: B x H x S x (D/H)."""


class TextDecoder:
    """Runs the layers of a transformers `BlipTextLMHeadModel` with key/value caches."""

    def __init__(self, model: Any, most_positions: int) -> None:
        bert, head = model.bert, model.cls.predictions
        self._embeddings = bert.embeddings
        self._layers = [TextLayer(layer) for layer in bert.encoder.layer]
        self._transform, self._activation = packed(head.transform.dense), head.transform.transform_act_fn
        self._head_norm = head.transform.LayerNorm
        self._vocabulary = packed(head.decoder)
        self._most_positions = most_positions

    def start(self, states_BSD: Tensor, prompt: list[int], draws: int) -> tuple[DecoderState, Tensor]:
        """Read the prompt for each image. Returns the state and the next token's logits: (B*R) x V, float32."""
        images, positions, device = len(states_BSD), len(prompt), states_BSD.device
        embedded_TD = self._embed(
            torch.tensor(prompt).to(device, non_blocking=True), torch.arange(positions, device=device)
        )
        hidden_ND = embedded_TD.repeat(images, 1)
        state = DecoderState(draws, torch.arange(images * draws, device=device), positions, [], [])
        causal = torch.ones(positions, positions, dtype=torch.bool, device=device).tril()
        for layer in self._layers:
            image = layer.image_keys(states_BSD)
            hidden_ND, keys, values = layer.read(hidden_ND, image, images, causal)
            state.image.append(image)
            state.own.append((self._for_draws(keys, draws), self._for_draws(values, draws)))
        last_BD = hidden_ND.view(images, positions, -1)[:, -1]
        return state, self._logits(last_BD).repeat_interleave(draws, 0)

    def step(self, state: DecoderState, token_N: Tensor) -> Tensor:
        """Append one token to every live row. Returns the next token's logits: N x V, float32."""
        hidden_ND = self._embed(token_N, torch.full((), state.length, device=token_N.device))
        for layer, own, image in zip(self._layers, state.own, state.image, strict=True):
            hidden_ND = layer.step(hidden_ND, own, image, state.length, state.rows, state.draws)
        state.length += 1
        return self._logits(hidden_ND)

    def keep(self, state: DecoderState, kept_N: Tensor) -> None:
        """Drop every live row for which `kept_N` (bool) is false."""
        place = kept_N.nonzero()[:, 0]
        state.rows = state.rows[place]
        self.reorder(state, place)

    def reorder(self, state: DecoderState, place_N: Tensor) -> None:
        """Continue live row i from the tokens of row `place_N[i]`, which is of the same image."""
        state.own = [(keys[place_N], values[place_N]) for keys, values in state.own]

    def _embed(self, token_N: Tensor, position: Tensor) -> Tensor:
        embeddings = self._embeddings
        embedded: Tensor = embeddings.LayerNorm(
            embeddings.word_embeddings(token_N) + embeddings.position_embeddings(position)
        )
        return embedded

    def _logits(self, hidden_ND: Tensor) -> Tensor:
        logits: Tensor = self._vocabulary(self._head_norm(self._activation(self._transform(hidden_ND))))
        return logits.float()

    def _for_draws(self, prompt_BHTd: Tensor, draws: int) -> Tensor:
        """A cache with room for a whole caption, which begins with the prompt of each row's image."""
        images, heads, positions, width = prompt_BHTd.shape
        cache = prompt_BHTd.new_zeros(images, draws, heads, self._most_positions, width)
        cache[:, :, :, :positions] = prompt_BHTd[:, None]
        return cache.view(images * draws, heads, self._most_positions, width)
