"""Chooses the next token: repetition penalty, minimum length, temperature, top-k, top-p, then one uniform per row.

Order and meaning of the steps are those of transformers' `generate`. Legend: N rows, V vocabulary, T tokens so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class SamplingRules:
    """How a token is chosen. Fields other than `end` are those of `CaptionSettings`."""

    end: int
    """The token that ends a caption."""
    top_p: float
    top_k: int
    temperature: float
    min_length: int
    repetition_penalty: float


def choose(logits_NV: Tensor, history_NT: Tensor, uniform_N: Tensor, rules: SamplingRules) -> tuple[Tensor, Tensor]:
    """Choose the next token of each row. Returns it and its log-probability under the model itself (before any rule).

    `logits_NV` is float32, `uniform_N` float64 in [0, 1). The token is found by inverting the cumulative distribution
    over the kept tokens, most probable first, so a row's choice depends on that row alone. Temperature 0 takes the most
    probable token.
    """
    scores_NV = _penalised(logits_NV, history_NT, rules.repetition_penalty)
    if history_NT.shape[1] < rules.min_length:
        scores_NV[:, rules.end] = -torch.inf
    token_N = _draw(scores_NV, uniform_N, rules) if rules.temperature else scores_NV.argmax(-1)
    chosen_N = logits_NV.gather(1, token_N[:, None])[:, 0]
    return token_N, chosen_N - logits_NV.logsumexp(-1)


def _penalised(logits_NV: Tensor, history_NT: Tensor, penalty: float) -> Tensor:
    if penalty == 1.0:
        return logits_NV.clone()
    seen_NT = logits_NV.gather(1, history_NT)
    return logits_NV.scatter(1, history_NT, torch.where(seen_NT < 0, seen_NT * penalty, seen_NT / penalty))


def _draw(scores_NV: Tensor, uniform_N: Tensor, rules: SamplingRules) -> Tensor:
    vocabulary = scores_NV.shape[1]
    kept = min(rules.top_k, vocabulary) if rules.top_k else vocabulary
    scores_NK, tokens_NK = (scores_NV / rules.temperature).topk(kept, dim=-1)
    probabilities_NK = scores_NK.softmax(-1)
    before_NK = probabilities_NK.cumsum(-1) - probabilities_NK
    # A token is kept while more probable ones hold less than top_p; the most probable token always is.
    outside_NK = before_NK >= rules.top_p
    outside_NK[:, 0] = False
    cumulative_NK = probabilities_NK.masked_fill(outside_NK, 0.0).double().cumsum(-1)
    target_N1 = (uniform_N * cumulative_NK[:, -1])[:, None]
    place_N1 = torch.searchsorted(cumulative_NK, target_N1, right=True)
    last_N1 = (~outside_NK).sum(-1, keepdim=True) - 1
    return tokens_NK.gather(1, torch.minimum(place_N1, last_N1))[:, 0]


STEPS = 128
"""Random numbers reserved per draw: the longest caption in tokens."""
_MASK = 2**64 - 1


def uniforms(seed: int, image_id: int, draws: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1), draws x STEPS, that depend on (seed, image id, draw, step) alone.

    Philox is counter-based: its key is (seed, image id) and its counter runs over draws and steps, so the first draws
    of an image stay the same when more are requested.
    """
    key = np.array([seed & _MASK, image_id & _MASK], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random((draws, STEPS))
