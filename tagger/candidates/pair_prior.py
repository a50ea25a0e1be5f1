"""Estimates which of its possible box pairs a statement means: a prior from box sizes, overlap and distance."""

import math
from collections.abc import Collection, Sequence

from tagger.box import Box
from tagger.english.words import words

# Fitted by maximum likelihood on human-annotated pairs (VRD, V-COCO) among all pairs of the same two categories.
SUBJECT_SIZE, OBJECT_SIZE, OVERLAP, GAP, DISTANCE = -0.01, 0.05, 1.69, -1.3, -1.22
STATED_SIZE_WEIGHT = 1.0
"""Amount that "large" adds to the weight of a noun's size and "small" subtracts from it."""

LEAST = 1e-9
"""Lower bound of a pair's weight relative to the likeliest pair, so that no pair is ruled out."""

_LARGE = words("large big huge giant tall long enormous massive adult older")
_SMALL = words("small little tiny young baby short miniature toddler")


def features(subject: Box, object_: Box) -> tuple[float, float, float, float, float]:
    """Returns the features of a pair: log sizes of both boxes, overlap, gap, and distance between their centres.

    A size is the square root of an area in pixels; overlap is a share of the smaller box; gap and distance are
    log(1 + d) of lengths in mean sizes. Only differences between pairs of one image count, so image size does not.
    """
    shared_w = min(subject.x + subject.w, object_.x + object_.w) - max(subject.x, object_.x)
    shared_h = min(subject.y + subject.h, object_.y + object_.h) - max(subject.y, object_.y)
    areas = max(subject.w * subject.h, 1.0), max(object_.w * object_.h, 1.0)
    unit = (math.sqrt(areas[0]) + math.sqrt(areas[1])) / 2
    gap = math.hypot(max(-shared_w, 0.0), max(-shared_h, 0.0))
    apart = math.hypot(
        subject.x + subject.w / 2 - object_.x - object_.w / 2, subject.y + subject.h / 2 - object_.y - object_.h / 2
    )
    return (
        math.log(areas[0]) / 2,
        math.log(areas[1]) / 2,
        max(shared_w, 0.0) * max(shared_h, 0.0) / min(areas),
        math.log1p(gap / unit),
        math.log1p(apart / unit),
    )


def pair_priors(
    pairs: Sequence[tuple[int, int]],
    boxes: Sequence[Box],
    stated: int,
    subject_attributes: Collection[str] = (),
    object_attributes: Collection[str] = (),
) -> list[float]:
    """Returns the probability that each pair is one of the `stated` pairs that are meant.

    The priors sum to `stated`, or to the number of pairs if that is smaller; none exceeds 1.
    """
    sizes = SUBJECT_SIZE + _size_shift(subject_attributes), OBJECT_SIZE + _size_shift(object_attributes)
    weights = (*sizes, OVERLAP, GAP, DISTANCE)
    scores = [
        sum(weight * value for weight, value in zip(weights, features(boxes[s], boxes[o]), strict=True))
        for s, o in pairs
    ]
    highest = max(scores, default=0.0)
    return _distributed([max(math.exp(score - highest), LEAST) for score in scores], stated)


def _size_shift(attributes: Collection[str]) -> float:
    stated = set(attributes)
    return STATED_SIZE_WEIGHT * (bool(stated & _LARGE) - bool(stated & _SMALL))


def _distributed(weights: Sequence[float], total: int) -> list[float]:
    """Distributes `total` in proportion to the weights, at most 1 each; the excess goes to the others."""
    shares = [1.0] * len(weights)
    left, remaining = float(total), math.fsum(weights)
    if total < len(weights):
        for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
            shares[place] = min(left * weights[place] / remaining, 1.0)
            left -= shares[place]
            remaining = max(remaining - weights[place], LEAST)
    return shares
