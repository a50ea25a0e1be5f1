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
    """Find the best hypothesis for each image.

    Which continuations go on follows from their tokens alone, so the network need not wait for the bookkeeping. On a CPU,
    which is never waited for, the search ends as soon as all images have their caption; another device decodes up to the
    maximum length and is asked once, at the end.
    """
    images, beams = len(states_BSD), rules.num_beams
    state, logits_NV = decoder.start(states_BSD, prompt, beams)
    found = [_Found(beams, [prompt] * beams) for _ in range(images)]
    device = states_BSD.device
    scores_BK = torch.full((images, beams), _NEVER, device=device)
    scores_BK[:, 0] = 0.0
    first_row = torch.arange(images, device=device)[:, None] * beams
    unread: list[Tensor] = []
    for length in range(len(prompt), rules.max_length):
        gains_NV = logits_NV.log_softmax(-1)
        if length < rules.min_length:
            gains_NV[:, rules.end] = -torch.inf
        vocabulary = gains_NV.shape[1]
        totals_BKV = gains_NV.view(images, beams, vocabulary) + scores_BK[:, :, None]
        # Twice as many continuations as beams, because at most half of them can end.
        best, place = totals_BKV.view(images, beams * vocabulary).topk(2 * beams)
        beam, token = place // vocabulary, place % vocabulary
        unread.append(torch.stack((best.double(), beam.double(), token.double())))
        if device.type == "cpu":
            _take(found, unread.pop(), rules.end)
        if length + 1 == rules.max_length or all(one.closed for one in found):
            break
        onward = (token == rules.end).int().argsort(dim=1, stable=True)[:, :beams]
        scores_BK = best.gather(1, onward)
        rows, next_token = (first_row + beam).gather(1, onward).view(-1), token.gather(1, onward).view(-1)
        decoder.reorder(state, rows)
        logits_NV = decoder.step(state, next_token)
    for step in torch.stack(unread).cpu() if unread else ():
        _take(found, step, rules.end)
    for one in found:
        one.finish()
    return [one.best for one in found]


def _take(found: list[_Found], step_3BK: Tensor, end: int) -> None:
    """Process the best continuations of a step: their totals, the beams that they continue, their tokens."""
    totals, beams, tokens = step_3BK.tolist()
    for one, *of_image in zip(found, totals, beams, tokens, strict=True):
        one.take(of_image[0], [int(beam) for beam in of_image[1]], [int(token) for token in of_image[2]], end)


@dataclass
class _Found:
    """The hypotheses of one image: those that go on, and the best ended ones, at most as many as beams."""

    most: int
    going: list[list[int]]
    """The tokens of the hypotheses that go on, by beam."""
    totals: list[float] = field(default_factory=list)
    """Their log-probabilities."""
    closed: bool = False
    """True when no open hypothesis can become one of the best any more."""
    kept: list[Hypothesis] = field(default_factory=list)

    def take(self, totals: list[float], beams: list[int], tokens: list[int], end: int) -> None:
        """Process the best continuations, best first: those that end compete, the first others go on."""
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
