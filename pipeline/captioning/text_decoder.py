"""BLIP's text decoder, run for many draws of an image at once: same weights and results as transformers', less work.

The keys and values of an image are computed once and shared by its draws (transformers repeats them for every draw),
and rows that have ended drop out of the computation.
Legend: B images, R draws, N live rows (a row is a draw of an image), S image states, T positions, H heads, D width,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_ROWS = 16
"""Products with fewer rows are padded: CPU kernels for few rows round differently, and a caption must not depend on
how many others are in the batch."""


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
        self._transform = head.transform
        self._vocabulary = head.decoder
        self._most_positions = most_positions

    def start(self, states_BSD: Tensor, prompt: list[int], draws: int) -> tuple[DecoderState, Tensor]:
        """Read the prompt for each image. Returns the state, and the next token's logits: (B*R) x V, float32."""
        image = [layer.image_keys(states_BSD) for layer in self._layers]
        images = len(states_BSD)
        state = DecoderState(
            1, torch.arange(images), 0, [self._empty(layer, states_BSD) for layer in self._layers], image
        )
        logits_BV = torch.empty(0)
        for token in prompt:
            logits_BV = self.step(state, torch.full((images,), token))
        state.own = [
            (keys.repeat_interleave(draws, 0), values.repeat_interleave(draws, 0)) for keys, values in state.own
        ]
        state.draws, state.rows = draws, torch.arange(images * draws)
        return state, logits_BV.repeat_interleave(draws, 0)

    def step(self, state: DecoderState, token_N: Tensor) -> Tensor:
        """Append one token to every live row. Returns the next token's logits: N x V, float32."""
        embeddings = self._embeddings
        hidden_ND = embeddings.word_embeddings(token_N) + embeddings.position_embeddings.weight[state.length]
        hidden_ND = embeddings.LayerNorm(hidden_ND)
        for index, layer in enumerate(self._layers):
            hidden_ND = layer.step(hidden_ND, state, index)
        state.length += 1
        hidden_ND = _product(hidden_ND, self._transform.dense)
        hidden_ND = self._transform.LayerNorm(self._transform.transform_act_fn(hidden_ND))
        return _product(hidden_ND, self._vocabulary).float()

    def keep(self, state: DecoderState, kept_N: Tensor) -> None:
        """Drop every live row whose mark in `kept_N` (bool) is false."""
        place = kept_N.nonzero()[:, 0]
        state.rows = state.rows[place]
        state.own = [(keys[place], values[place]) for keys, values in state.own]

    def _empty(self, layer: _Layer, states_BSD: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(states_BSD), layer.heads, self._most_positions, layer.head_width)
        return states_BSD.new_zeros(shape), states_BSD.new_zeros(shape)


class _Layer:
    """One decoder layer: self-attention over the cache, cross-attention to the image, feed-forward."""

    def __init__(self, layer: Any) -> None:
        own, cross = layer.attention.self, layer.crossattention.self
        self.heads: int = own.num_attention_heads
        self.head_width: int = own.attention_head_size
        self._own_weight = torch.cat([own.query.weight, own.key.weight, own.value.weight])
        self._own_bias = torch.cat([own.query.bias, own.key.bias, own.value.bias])
        self._own_output = layer.attention.output
        self._cross = cross
        self._cross_output = layer.crossattention.output
        self._inner, self._outer = layer.intermediate, layer.output

    def image_keys(self, states_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the images: B x H x S x (D/H)."""
        batch, states, width = states_BSD.shape
        flat = states_BSD.reshape(batch * states, width)
        shape = (batch, states, self.heads, self.head_width)
        keys = _product(flat, self._cross.key).view(shape).transpose(1, 2).contiguous()
        return keys, _product(flat, self._cross.value).view(shape).transpose(1, 2).contiguous()

    def step(self, hidden_ND: Tensor, state: DecoderState, index: int) -> Tensor:
        """The layer's output for one new position of every live row."""
        hidden_ND = _add_and_norm(self._own_output, self._attend_own(hidden_ND, state, index), hidden_ND)
        hidden_ND = _add_and_norm(self._cross_output, self._attend_image(hidden_ND, state, index), hidden_ND)
        inner = self._inner.intermediate_act_fn(_product(hidden_ND, self._inner.dense))
        return _add_and_norm(self._outer, inner, hidden_ND)

    def _attend_own(self, hidden_ND: Tensor, state: DecoderState, index: int) -> Tensor:
        rows = len(hidden_ND)
        mixed = _padded_linear(hidden_ND, self._own_weight, self._own_bias)
        query, key, value = mixed.view(rows, 3, self.heads, self.head_width).unbind(1)
        keys, values = state.own[index]
        keys[:, :, state.length], values[:, :, state.length] = key, value
        until = state.length + 1
        attended = F.scaled_dot_product_attention(query[:, :, None], keys[:, :, :until], values[:, :, :until])
        return attended.reshape(rows, -1)

    def _attend_image(self, hidden_ND: Tensor, state: DecoderState, index: int) -> Tensor:
        keys, values = state.image[index]
        query_ND = _product(hidden_ND, self._cross.query)
        images, draws = len(keys), state.draws
        # Ended rows leave gaps: queries are laid out as images x draws so that draws share their image's keys.
        laid_out = query_ND.new_zeros(images * draws, query_ND.shape[1]).index_copy_(0, state.rows, query_ND)
        query = laid_out.view(images, draws, self.heads, self.head_width).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, keys, values)
        return attended.transpose(1, 2).reshape(images * draws, -1)[state.rows]


def _add_and_norm(output: Any, update: Tensor, residual: Tensor) -> Tensor:
    normed: Tensor = output.LayerNorm(_product(update, output.dense) + residual)
    return normed


def _product(rows_ND: Tensor, linear: nn.Linear) -> Tensor:
    return _padded_linear(rows_ND, linear.weight, linear.bias)


def _padded_linear(rows_ND: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = len(rows_ND)
    if rows >= LEAST_ROWS:
        return F.linear(rows_ND, weight, bias)
    return F.linear(F.pad(rows_ND, (0, 0, 0, LEAST_ROWS - rows)), weight, bias)[:rows]
