"""BLIP's text decoder, run for many draws of an image at once: same weights and results as transformers', less work.

The keys and values of an image are computed once and shared by its draws (transformers repeats them for every draw),
the prompt is read in one pass, and rows that have ended drop out of the computation.
Legend: B images, R draws, N live rows (a row is a draw of an image), S image states, T positions, H heads, D width,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.captioning.attention import attend
from pipeline.captioning.packed_linear import PackedLinear


@dataclass
class DecoderState:
    """What has been decoded so far. Rows are numbered image * draws + draw."""

    draws: int
    rows: Tensor
    """The numbers of the live rows, ascending."""
    length: int
    """Positions in the cache."""
    own: list[tuple[Tensor, Tensor]]
    """For each layer, keys and values of the rows' own tokens: N x H x T x (D/H)."""
    image: list[tuple[Tensor, Tensor]]
    """For each layer, keys and values of the image: B x H x S x (D/H)."""


class TextDecoder:
    """Runs the layers of a transformers `BlipTextLMHeadModel` with key/value caches."""

    def __init__(self, model: Any, most_positions: int) -> None:
        bert, head = model.bert, model.cls.predictions
        self._embeddings = bert.embeddings
        self._layers = [_Layer(layer) for layer in bert.encoder.layer]
        self._transform, self._activation = PackedLinear.of(head.transform.dense), head.transform.transform_act_fn
        self._head_norm = head.transform.LayerNorm
        self._vocabulary = PackedLinear.of(head.decoder)
        self._most_positions = most_positions

    def start(self, states_BSD: Tensor, prompt: list[int], draws: int) -> tuple[DecoderState, Tensor]:
        """Read the prompt for each image. Returns the state, and the next token's logits: (B*R) x V, float32."""
        images, positions = len(states_BSD), len(prompt)
        embedded_TD = self._embed(torch.tensor(prompt), torch.arange(positions))
        hidden_ND = embedded_TD.repeat(images, 1)
        state = DecoderState(draws, torch.arange(images * draws), positions, [], [])
        for layer in self._layers:
            image = layer.image_keys(states_BSD)
            hidden_ND, keys, values = layer.read(hidden_ND, image)
            state.image.append(image)
            state.own.append((self._for_draws(keys, draws), self._for_draws(values, draws)))
        last_BD = hidden_ND.view(images, positions, -1)[:, -1]
        return state, self._logits(last_BD).repeat_interleave(draws, 0)

    def step(self, state: DecoderState, token_N: Tensor) -> Tensor:
        """Append one token to every live row. Returns the next token's logits: N x V, float32."""
        hidden_ND = self._embed(token_N, torch.tensor(state.length))
        for layer, own, image in zip(self._layers, state.own, state.image, strict=True):
            hidden_ND = layer.step(hidden_ND, own, image, state)
        state.length += 1
        return self._logits(hidden_ND)

    def keep(self, state: DecoderState, kept_N: Tensor) -> None:
        """Drop every live row whose mark in `kept_N` (bool) is false."""
        place = kept_N.nonzero()[:, 0]
        state.rows = state.rows[place]
        self.reorder(state, place)

    def reorder(self, state: DecoderState, place_N: Tensor) -> None:
        """Live row i goes on from what row `place_N[i]`, of the same image, has said."""
        state.own = [(keys[place_N], values[place_N]) for keys, values in state.own]

    def _embed(self, token_N: Tensor, position: Tensor) -> Tensor:
        embeddings = self._embeddings
        embedded: Tensor = embeddings.LayerNorm(
            embeddings.word_embeddings(token_N) + embeddings.position_embeddings(position)
        )
        return embedded

    def _logits(self, hidden_ND: Tensor) -> Tensor:
        return self._vocabulary(self._head_norm(self._activation(self._transform(hidden_ND)))).float()

    def _for_draws(self, prompt_BHTd: Tensor, draws: int) -> Tensor:
        """A cache with room for a whole caption, that begins with the prompt of the row's image."""
        images, heads, positions, width = prompt_BHTd.shape
        cache = prompt_BHTd.new_zeros(images, draws, heads, self._most_positions, width)
        cache[:, :, :, :positions] = prompt_BHTd[:, None]
        return cache.view(images * draws, heads, self._most_positions, width)


class _Layer:
    """One decoder layer: self-attention over the cache, cross-attention to the image, feed-forward."""

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

    def image_keys(self, states_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the images: B x H x S x (D/H)."""
        keys, values = [], []
        for states_SD in states_BSD:
            both = self._image_keys(states_SD).view(len(states_SD), 2, self._heads, -1).permute(1, 2, 0, 3).contiguous()
            keys.append(both[0])
            values.append(both[1])
        return torch.stack(keys), torch.stack(values)

    def read(self, hidden_ND: Tensor, image: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output for the prompts, (B*T) x D, and their own keys and values, B x H x T x (D/H)."""
        images = len(image[0])
        mixed = self._own(hidden_ND).view(images, len(hidden_ND) // images, 3, self._heads, -1)
        query, key, value = mixed.transpose(1, 3).unbind(2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended_ND = attended.transpose(1, 2).reshape(len(hidden_ND), -1)
        rows = torch.arange(len(hidden_ND))
        return self._after_own(hidden_ND, attended_ND, image, rows), key, value

    def step(
        self, hidden_ND: Tensor, own: tuple[Tensor, Tensor], image: tuple[Tensor, Tensor], state: DecoderState
    ) -> Tensor:
        """The layer's output for one new position of every live row, whose key and value go into the cache `own`."""
        rows, (keys, values), until = len(hidden_ND), own, state.length + 1
        query, key, value = self._own(hidden_ND).view(rows, 3, self._heads, -1).unbind(1)
        keys[:, :, state.length], values[:, :, state.length] = key, value
        attended = attend(query[:, :, None], keys[:, :, :until], values[:, :, :until])
        return self._after_own(hidden_ND, attended.reshape(rows, -1), image, state.rows, state.draws)

    def _after_own(
        self,
        hidden_ND: Tensor,
        attended_ND: Tensor,
        image: tuple[Tensor, Tensor],
        rows: Tensor,
        draws: int | None = None,
    ) -> Tensor:
        hidden_ND = self._own_output(attended_ND, hidden_ND)
        places = draws or len(rows) // len(image[0])
        hidden_ND = self._cross_output(self._attend_image(hidden_ND, image, rows, places), hidden_ND)
        return self._outer(self._activation(self._inner(hidden_ND)), hidden_ND)

    def _attend_image(self, hidden_ND: Tensor, image: tuple[Tensor, Tensor], rows: Tensor, places: int) -> Tensor:
        """Row r looks at image r // places."""
        keys, values = image
        images = len(keys)
        query_ND = self._cross_query(hidden_ND)
        gaps = len(rows) < images * places
        if gaps:
            # Queries are laid out as images x places, so that an image's keys are read once for all of its rows.
            query_ND = query_ND.new_zeros(images * places, query_ND.shape[1]).index_copy_(0, rows, query_ND)
        query = query_ND.view(images, places, self._heads, -1).transpose(1, 2)
        attended = attend(query, keys, values).transpose(1, 2).reshape(images * places, -1)
        return attended[rows] if gaps else attended


class _AddAndNorm:
    """A product, added to what went in before it, normalised."""

    def __init__(self, output: Any) -> None:
        self._dense, self._norm = PackedLinear.of(output.dense), output.LayerNorm

    def __call__(self, update_ND: Tensor, residual_ND: Tensor) -> Tensor:
        normed: Tensor = self._norm(self._dense(update_ND) + residual_ND)
        return normed
