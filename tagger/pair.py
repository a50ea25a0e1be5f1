"""A candidate: two boxes of an image, and a predicate that may hold between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NO_MENTION = -1


@dataclass(frozen=True, slots=True)
class Pair:
    """An ordered pair of boxes that a caption's triplet may mean.

    `subject`, `object`: indices into the image's boxes. `triplet`: index of the first triplet that states the mention.
    `ambiguity`: number of pairs of the mention. `mention`: number of the mention in its image, counted from 0;
    candidates of one mention are alternatives (-1: no caption states it). `prior`: probability that this pair is (one
    of those) meant; over a mention it sums to the stated count, 1 for "a man riding a horse". `support`: number of
    triplets that state the mention.
    """

    subject: int
    object: int
    predicate: str
    triplet: int
    ambiguity: int
    mention: int = NO_MENTION
    prior: float = 0.0
    support: int = 1


def shares(weights: Sequence[float], total: float) -> list[float]:
    """Distributes `total` in proportion to the weights, the largest first, at most 1 each.

    Over the pairs of a mention, `total` is the number of pairs that it means.
    """
    if total >= len(weights):
        return [1.0] * len(weights)
    found = [0.0] * len(weights)
    left, remaining = total, math.fsum(weights)
    # The largest first, because what a share loses to the limit goes to the smaller ones.
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        found[place] = min(left * weights[place] / remaining, 1.0) if remaining > 0 else 0.0
        left, remaining = max(left - found[place], 0.0), remaining - weights[place]
    return found
