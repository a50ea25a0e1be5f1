"""Matches the predictions of whole test sets with the truth, without a loop over images.

Axes: N predictions, T truths, E candidates, which are pairs of a prediction and a truth that may match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, aligned_iou, aligned_mask_iou


@dataclass(frozen=True)
class MatchCandidates:
    """E pairs of a prediction and a truth, by ascending prediction, then truth."""

    prediction: Integers
    truth: Integers
    overlap: Floats
    """E: what a prediction chooses among its truths by"""

    def take(self, chosen: Flags | Integers) -> MatchCandidates:
        """Returns the candidates that a mask or positions select."""
        return MatchCandidates(self.prediction[chosen], self.truth[chosen], self.overlap[chosen])

    def best(self) -> MatchCandidates:
        """Returns for each prediction its candidate of greatest overlap, the first of equal ones."""
        return self.take(first_of_groups(self.prediction, -self.overlap))

    def first_finds(self, predictions: int) -> Flags:
        """Returns N: whether a prediction is the first whose best truth is this one. Predictions come best first.

        A prediction whose best truth is already found finds none, even if it overlaps others.
        """
        best = self.best()
        _, first = np.unique(best.truth, return_index=True)
        return marked(predictions, best.prediction[first])

    def assigned(self) -> MatchCandidates:
        """Matches each prediction with at most one truth, and the reverse: each takes the best truth still free.

        Predictions come best first. Rounds of proposals give what a loop over the predictions gives, since every truth
        prefers the earlier prediction.
        """
        left = self
        while len(left.prediction):
            best = left.best()
            winner = np.full(int(left.truth.max()) + 1, np.iinfo(np.int64).max)
            np.minimum.at(winner, best.truth, best.prediction)
            # A truth refuses all that come after the best that proposed to it.
            refused = left.prediction > winner[left.truth]
            if not refused.any():
                return best
            left = left.take(~refused)
        return left


def first_of_groups(group: Integers, *preferences: NDArray[Any]) -> Integers:
    """Returns, for each group in ascending order, the position of its item with the smallest preferences.

    Of ties, the first. No group is negative.
    """
    order = np.lexsort((*reversed(preferences), group))
    return order[np.flatnonzero(np.diff(group[order], prepend=-1))]


def joined(left: Integers, right: Integers) -> tuple[Integers, Integers]:
    """Returns the positions of all pairs with equal keys, by ascending position in `left`, then in `right`."""
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    start, end = np.searchsorted(ordered, left, "left"), np.searchsorted(ordered, left, "right")
    counts = end - start
    first = np.repeat(start - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) if len(left) else start
    return np.repeat(np.arange(len(left)), counts), order[first + np.arange(int(counts.sum()))]


def numbered(columns: Sequence[Integers]) -> Integers:
    """Returns a number for each row of integer columns. Equal rows have equal numbers, which ascend as the rows do."""
    numbers = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, place = np.unique(column, return_inverse=True)
        # Numbered again for each column, so that products never exceed 64 bits.
        numbers = np.unique(numbers * max(len(values), 1) + place, return_inverse=True)[1]
    return numbers.astype(np.int64)


def numbered_alike(left: Sequence[Integers], right: Sequence[Integers]) -> tuple[Integers, Integers]:
    """Numbers the rows of two tables of integer columns, so that rows have equal numbers exactly if they are equal."""
    numbers = numbered([np.concatenate(pair) for pair in zip(left, right, strict=True)])
    return numbers[: len(left[0])], numbers[len(left[0]) :]


def unseen_triplets(truth: Relations, seen: Integers | None) -> Flags:
    """Marks the truths whose triplet is not in `seen` (M×3: subject label, object label, predicate); none if None."""
    if seen is None:
        return np.zeros(len(truth), bool)
    true, known = numbered_alike([*truth.triplets.T], [*seen.reshape(-1, 3).T])
    return ~np.isin(true, known)


def relation_candidates(predicted: Relations, truth: Relations, overlap: float, pixel: float = 1.0) -> MatchCandidates:
    """Returns predictions and truths of one image with the same three labels, both boxes of which overlap by `overlap`.

    A candidate's overlap is the smaller of its two.
    """

    def least(found: Integers, true: Integers) -> Floats:
        subject = aligned_iou(predicted.subject_boxes[found], truth.subject_boxes[true], pixel)
        return np.minimum(subject, aligned_iou(predicted.object_boxes[found], truth.object_boxes[true], pixel))

    return _candidates(predicted, truth, overlap, least)


def mask_candidates(predicted: Relations, truth: Relations, overlap: float) -> MatchCandidates:
    """As `relation_candidates`, by the IoU of masks, which both must have."""
    masks, true_masks = predicted.masks, truth.masks
    assert masks is not None and true_masks is not None
    return _candidates(predicted, truth, overlap, lambda p, t: aligned_mask_iou(masks[p], true_masks[t]).min(axis=1))


def phrase_candidates(predicted: Relations, truth: Relations, overlap: float, pixel: float = 1.0) -> MatchCandidates:
    """Returns predictions and truths of one image with the same labels, whose enclosing boxes overlap by `overlap`."""
    boxes, true_boxes = enclosing(predicted), enclosing(truth)
    return _candidates(predicted, truth, overlap, lambda p, t: aligned_iou(boxes[p], true_boxes[t], pixel))


def _candidates(
    predicted: Relations, truth: Relations, overlap: float, overlaps: Callable[[Integers, Integers], Floats]
) -> MatchCandidates:
    pairs = joined(*numbered_alike(_labels(predicted), _labels(truth)))
    every = MatchCandidates(*pairs, overlaps(*pairs))
    return every.take(every.overlap >= overlap)


def triplets_in_images(relations: Relations) -> Integers:
    """Returns N: equal numbers for relations of one image with the same triplet."""
    return numbered(_labels(relations))


def pair_numbers(relations: Relations) -> Integers:
    """Returns N: equal numbers for relations of one image between the same boxes with the same labels."""
    boxes = np.concatenate([relations.subject_boxes, relations.object_boxes], axis=1)
    # Boxes are equal if their bits are, once zeros and NaN have one form each.
    bits = np.where(np.isnan(boxes), np.nan, boxes + 0.0).astype(np.float64).view(np.int64)
    return numbered([relations.image, relations.subject_labels, relations.object_labels, *bits.T])


def enclosing(relations: Relations) -> Floats:
    """Returns N×4: the smallest box around the subject and the object of each relation."""
    start = np.minimum(relations.subject_boxes[:, :2], relations.object_boxes[:, :2])
    end = np.maximum(relations.subject_boxes[:, 2:], relations.object_boxes[:, 2:])
    return np.concatenate([start, end], axis=1)


def kept(group: Integers, boxes: Sequence[Floats], powers: Sequence[float], threshold: float) -> Flags:
    """Suppresses duplicates greedily, within groups. Returns N: whether an item, best first, is kept.

    The overlap of two items of a group is the product of the IoU of their N×4 `boxes` to the `powers`. An item is
    suppressed when that of a better kept one exceeds `threshold`.
    """
    return np.asarray(representatives(group, boxes, powers, threshold) == np.arange(len(group)))


def representatives(group: Integers, boxes: Sequence[Floats], powers: Sequence[float], threshold: float) -> Integers:
    """Returns N: the best kept item that suppresses each item, or itself if it is kept. Arguments as in `kept`."""
    from pipeline.evaluation.loops import settle  # Numba takes half a second to load

    order = np.argsort(group, kind="stable")
    bounds = np.append(np.flatnonzero(np.diff(group[order], prepend=-1)), len(order))
    shown = np.arange(len(group))
    settle(order, bounds, tuple(np.ascontiguousarray(b, np.float64) for b in boxes), np.array(powers), threshold, shown)
    return shown


def marked(length: int, positions: Integers) -> Flags:
    """Returns a mask of `length` that is true at `positions`."""
    mask = np.zeros(length, bool)
    mask[positions] = True
    return mask


def _labels(relations: Relations) -> list[Integers]:
    return [relations.image, *relations.triplets.T]
