"""Decodes captions: nucleus sampling and beam search, by the rules of `CaptionSettings`; lengths include the prompt.

Sampling applies repetition penalty, minimum length, temperature, top-k and top-p in the order and meaning of
transformers' `generate`, then draws with one uniform number per row. Beam search is that of the authors' library:
hypotheses compare by log-probability over length, prompt included (current transformers divides by the length without
the prompt, which favours other captions).
Legend: B images, K beams, N rows (in beam search: image * K + beam), V vocabulary, T tokens so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.captioning.network import TextDecoder
from pipeline.captioning.settings import CaptionSettings

STEPS = 128
"""Random numbers reserved per draw: the longest caption in tokens."""
_MASK = 2**64 - 1
_NEVER = -1e9


def choose(
    logits_NV: Tensor, history_NT: Tensor, uniform_N: Tensor, settings: CaptionSettings, end: int
) -> tuple[Tensor, Tensor]:
    """Choose the next token of each row. Returns it and its log-probability under the model itself (before any rule).

    `logits_NV` is float32, `uniform_N` float64 in [0, 1), `end` the token that ends a caption. The token is found by
    inverting the cumulative distribution over the kept tokens, most probable first, so a row's choice depends on that
    row alone. Temperature 0 takes the most probable token.
    """
    scores_NV = _penalised(logits_NV, history_NT, settings.repetition_penalty)
    if history_NT.shape[1] < settings.min_length:
        scores_NV[:, end] = -torch.inf
    token_N = _draw(scores_NV, uniform_N, settings) if settings.temperature else scores_NV.argmax(-1)
    chosen_N = logits_NV.gather(1, token_N[:, None])[:, 0]
    return token_N, chosen_N - logits_NV.logsumexp(-1)


def _penalised(logits_NV: Tensor, history_NT: Tensor, penalty: float) -> Tensor:
    if penalty == 1.0:
        return logits_NV.clone()
    seen_NT = logits_NV.gather(1, history_NT)
    return logits_NV.scatter(1, history_NT, torch.where(seen_NT < 0, seen_NT * penalty, seen_NT / penalty))


def _draw(scores_NV: Tensor, uniform_N: Tensor, settings: CaptionSettings) -> Tensor:
    vocabulary = scores_NV.shape[1]
    kept = min(settings.top_k, vocabulary) if settings.top_k else vocabulary
    scores_NK, tokens_NK = (scores_NV / settings.temperature).topk(kept, dim=-1)
    probabilities_NK = scores_NK.softmax(-1)
    before_NK = probabilities_NK.cumsum(-1) - probabilities_NK
    # A token is kept while more probable ones hold less than top_p; the most probable token always is.
    outside_NK = before_NK >= settings.top_p
    outside_NK[:, 0] = False
    cumulative_NK = probabilities_NK.masked_fill(outside_NK, 0.0).double().cumsum(-1)
    target_N1 = (uniform_N * cumulative_NK[:, -1])[:, None]
    place_N1 = torch.searchsorted(cumulative_NK, target_N1, right=True)
    last_N1 = (~outside_NK).sum(-1, keepdim=True) - 1
    return tokens_NK.gather(1, torch.minimum(place_N1, last_N1))[:, 0]


def uniforms(seed: int, image_id: int, draws: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1), draws x STEPS, that depend on (seed, image id, draw, step) alone.

    Philox is counter-based: its key is (seed, image id) and its counter runs over draws and steps, so the first draws
    of an image stay the same when more are requested.
    """
    # Keys are unsigned, whereas ids of images may be negative.
    key = np.array([seed & _MASK, image_id & _MASK], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random((draws, STEPS))


class Hypothesis(NamedTuple):
    """A caption's tokens (with the prompt, without the end) and its log-probability (with the end, if reached)."""

    tokens: list[int]
    log_probability: float

    @property
    def score(self) -> float:
        """The value that hypotheses are compared by."""
        return self.log_probability / len(self.tokens)


def search(
    decoder: TextDecoder, states_BSD: Tensor, prompt: list[int], settings: CaptionSettings, end: int
) -> list[Hypothesis]:
    """Find the best hypothesis for each image; `end` is the token that ends a caption.

    Which continuations survive follows from their tokens alone, so the network need not wait for the bookkeeping. On a
    CPU, which is never waited for, the search ends as soon as all images have their caption; another device decodes up
    to the maximum length and is asked once, at the end.
    """
    images, beams = len(states_BSD), settings.num_beams
    state, logits_NV = decoder.start(states_BSD, prompt, beams)
    searches = [_Search(beams, [prompt] * beams) for _ in range(images)]
    device = states_BSD.device
    scores_BK = torch.full((images, beams), _NEVER, device=device)
    # All beams begin with the prompt, so only one of them may continue it.
    scores_BK[:, 0] = 0.0
    first_row = torch.arange(images, device=device)[:, None] * beams
    unread: list[Tensor] = []
    for length in range(len(prompt), settings.max_length):
        gains_NV = logits_NV.log_softmax(-1)
        if length < settings.min_length:
            gains_NV[:, end] = -torch.inf
        vocabulary = gains_NV.shape[1]
        totals_BKV = gains_NV.view(images, beams, vocabulary) + scores_BK[:, :, None]
        # Twice as many continuations as beams, because at most half of them can end.
        best, place = totals_BKV.view(images, beams * vocabulary).topk(2 * beams)
        beam, token = place // vocabulary, place % vocabulary
        unread.append(torch.stack((best.double(), beam.double(), token.double())))
        if device.type == "cpu":
            _take(searches, unread.pop(), end)
        if length + 1 == settings.max_length or all(one.closed for one in searches):
            break
        onward = (token == end).int().argsort(dim=1, stable=True)[:, :beams]
        scores_BK = best.gather(1, onward)
        rows, next_token = (first_row + beam).gather(1, onward).view(-1), token.gather(1, onward).view(-1)
        decoder.reorder(state, rows)
        logits_NV = decoder.step(state, next_token)
    for step in torch.stack(unread).cpu() if unread else ():
        _take(searches, step, end)
    for one in searches:
        one.finish()
    return [one.best for one in searches]


def _take(searches: list[_Search], step_3BK: Tensor, end: int) -> None:
    """Process the best continuations of a step: their totals, the beams that they continue, their tokens."""
    totals, beams, tokens = step_3BK.tolist()
    for one, *of_image in zip(searches, totals, beams, tokens, strict=True):
        one.take(of_image[0], [int(beam) for beam in of_image[1]], [int(token) for token in of_image[2]], end)


@dataclass
class _Search:
    """The hypotheses of one image: open ones, and the best ended ones, at most as many as beams."""

    most: int
    going: list[list[int]]
    """The tokens of the open hypotheses, by beam."""
    totals: list[float] = field(default_factory=list)
    """Their log-probabilities."""
    closed: bool = False
    """True when no open hypothesis can still become one of the best."""
    kept: list[Hypothesis] = field(default_factory=list)

    def take(self, totals: list[float], beams: list[int], tokens: list[int], end: int) -> None:
        """Process the best continuations, best first: those that end compete, the first others stay open."""
        if self.closed:
            return
        before = [self.going[beam] for beam in beams]
        onward: list[int] = []
        for place, (total, token) in enumerate(zip(totals, tokens, strict=True)):
            if token != end:
                onward.append(place)
            elif place < self.most:
                self._add(Hypothesis(before[place], total))
        self.closed = len(self.kept) == self.most and min(h.score for h in self.kept) >= totals[0] / len(before[0])
        self.going = [[*before[place], tokens[place]] for place in onward[: self.most]]
        self.totals = [totals[place] for place in onward[: self.most]]

    def finish(self) -> None:
        """Let hypotheses that have reached the maximum length compete too."""
        if not self.closed:
            for sequence, total in zip(self.going, self.totals, strict=True):
                self._add(Hypothesis(sequence, total))

    @property
    def best(self) -> Hypothesis:
        """The hypothesis with the highest score; of equal ones the latest."""
        return max(reversed(self.kept), key=lambda hypothesis: hypothesis.score)

    def _add(self, hypothesis: Hypothesis) -> None:
        self.kept.append(hypothesis)
        if len(self.kept) > self.most:
            self.kept.remove(min(self.kept, key=lambda kept: kept.score))
