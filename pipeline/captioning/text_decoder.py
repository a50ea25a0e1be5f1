"""BLIP's text decoder for many draws per image: same weights and results as in transformers, with less work.

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

from pipeline.captioning.layers import TextLayer, packed


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
