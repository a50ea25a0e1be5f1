"""Beam search as in the authors' library: hypotheses compare by log-probability over length, prompt included.

(Current transformers divides by the length without the prompt, which favours other captions.)
Legend: B images, K beams, N rows (image * K + beam), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.captioning.text_decoder import TextDecoder

_NEVER = -1e9


@dataclass(frozen=True)
class BeamRules:
    """How a search runs. Fields other than `end` are those of `CaptionSettings`; lengths include the prompt."""

    end: int
    """The token that ends a caption."""
    num_beams: int
    max_length: int
    min_length: int


class Hypothesis(NamedTuple):
    """A caption's tokens (with the prompt, without the end) and its log-probability (with the end, if it was reached)."""

    tokens: list[int]
    log_probability: float

    @property
    def score(self) -> float:
        """The value that hypotheses are compared by."""
        return self.log_probability / len(self.tokens)


def search(decoder: TextDecoder, states_BSD: Tensor, prompt: list[int], rules: BeamRules) -> list[Hypothesis]:
    """Find the best hypothesis for each image."""
    images, beams = len(states_BSD), rules.num_beams
    state, logits_NV = decoder.start(states_BSD, prompt, beams)
    found = [_Found(beams) for _ in range(images)]
    device = states_BSD.device
    tokens = torch.tensor(prompt, device=device).repeat(images * beams, 1)
    scores_BK = torch.tensor([0.0] + [_NEVER] * (beams - 1), device=device).repeat(images, 1)
    first_row = torch.arange(images, device=device)[:, None] * beams
    for length in range(len(prompt), rules.max_length):
        gains_NV = logits_NV.log_softmax(-1)
        if length < rules.min_length:
            gains_NV[:, rules.end] = -torch.inf
        vocabulary = gains_NV.shape[1]
        totals_BKV = gains_NV.view(images, beams, vocabulary) + scores_BK[:, :, None]
        # Twice as many continuations as beams, because at most half of them can end.
        best, place = totals_BKV.view(images, beams * vocabulary).topk(2 * beams)
        row, token = first_row + place // vocabulary, place % vocabulary
        chosen = torch.tensor([
            found[i].take(best[i].tolist(), token[i].tolist(), [tokens[r].tolist() for r in row[i]], rules.end)
            for i in range(images)
        ], device=device)  # fmt: skip
        scores_BK, rows, next_token = best.gather(1, chosen), row.gather(1, chosen).view(-1), token.gather(1, chosen)
        tokens = torch.cat([tokens[rows], next_token.view(-1, 1)], dim=1)
        if length + 1 == rules.max_length or all(one.closed for one in found):
            break
        decoder.reorder(state, rows)
        logits_NV = decoder.step(state, next_token.view(-1))
    for one, open_tokens, open_scores in zip(found, tokens.view(images, beams, -1), scores_BK, strict=True):
        one.finish(open_tokens.tolist(), open_scores.tolist())
    return [one.best for one in found]


@dataclass
class _Found:
    """The best ended hypotheses of one image, at most as many as beams."""

    most: int
    closed: bool = False
    """True when no open hypothesis can become one of the best any more."""
    kept: list[Hypothesis] = field(default_factory=list)

    def take(self, totals: list[float], tokens: list[int], before: list[list[int]], end: int) -> list[int]:
        """Process the best continuations, best first. Returns the places of those that continue, as many as beams."""
        if self.closed:
            return list(range(self.most))
        onward: list[int] = []
        for place, (total, token) in enumerate(zip(totals, tokens, strict=True)):
            if token != end:
                onward.append(place)
            elif place < self.most:
                self._add(Hypothesis(before[place], total))
        self.closed = len(self.kept) == self.most and min(h.score for h in self.kept) >= totals[0] / len(before[0])
        return onward[: self.most]

    def finish(self, tokens: list[list[int]], totals: list[float]) -> None:
        """Let hypotheses that have reached the maximum length compete too."""
        if not self.closed:
            for sequence, total in zip(tokens, totals, strict=True):
                self._add(Hypothesis(sequence, total))

    @property
    def best(self) -> Hypothesis:
        """The hypothesis with the highest score; of equal ones the latest."""
        return max(reversed(self.kept), key=lambda hypothesis: hypothesis.score)

    def _add(self, hypothesis: Hypothesis) -> None:
        self.kept.append(hypothesis)
        if len(self.kept) > self.most:
            self.kept.remove(min(self.kept, key=lambda kept: kept.score))
