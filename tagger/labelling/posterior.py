"""Estimates which of its possible pairs a mention means, given the pixels."""

import math
from collections.abc import Sequence

from tagger.pair import NO_MENTION, Pair

LEAST = 1e-6
"""Minimum distance of probabilities from 0 and 1."""


def posteriors(pairs: Sequence[Pair], probabilities: Sequence[float]) -> list[float | None]:
    """Returns the probability that each candidate is (one of those) meant by its mention; None without a mention.

    `probabilities`: the probability of each candidate's relation, from its pixels. Over a mention, posteriors have the
    same sum as priors: the number of pairs that it means. They are proportional to prior times odds, but at most 1:
    the excess goes to the others.
    """
    mentions: dict[int, list[int]] = {}
    for place, pair in enumerate(pairs):
        mentions.setdefault(pair.mention, []).append(place)
    found: list[float | None] = [None] * len(pairs)
    for mention, places in mentions.items():
        if mention == NO_MENTION:
            continue
        weights = [max(pairs[place].prior, LEAST) * _odds(probabilities[place]) for place in places]
        for place, share in zip(places, _shares(weights, math.fsum(pairs[p].prior for p in places)), strict=True):
            found[place] = share
    return found


def _odds(probability: float) -> float:
    kept = min(max(probability, LEAST), 1 - LEAST)
    return kept / (1 - kept)


def _shares(weights: Sequence[float], total: float) -> list[float]:
    """Distributes `total` in proportion to the weights, the largest first, at most 1 each."""
    shares = [0.0] * len(weights)
    left, remaining = total, math.fsum(weights)
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        shares[place] = min(left * weights[place] / remaining, 1.0) if remaining > 0 else 0.0
        left, remaining = max(left - shares[place], 0.0), remaining - weights[place]
    return shares
