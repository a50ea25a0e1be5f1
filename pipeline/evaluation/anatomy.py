"""Error anatomy of relation detection: what is wrong with each prediction, and how much score each kind of error costs.

The method is TIDE's (Bolya et al. 2020), carried over from objects to pairs as Diag-HOI does (Zhu et al. 2023). Every
wrong prediction gets one kind: what would have to change for it to find the truth that it comes closest to. A kind's
cost is the gain in score when an oracle repairs that kind alone. Costs do not add up, as repairs depend on each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.matching import first_of_groups, joined
from pipeline.evaluation.ranking import best_first
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, aligned_iou, scores_of

Score = Callable[..., float]
"""Scores predictions against the truth, two `Relations`, e.g. by the mean AP of a benchmark. Its argument `overlap`,
0.5 by default, is the least IoU of right boxes."""

OVERLAP = 0.5
"""Least IoU of a right box."""
TOUCH = 0.1
"""Least IoU of a box that is off, but meant for the true one: TIDE's background threshold."""
PAIRS_AT_ONCE = 1_000_000
"""Pairs of a prediction and a truth that are compared together, which bounds memory."""


class ErrorKind(StrEnum):
    """What is wrong with a prediction, or with a truth that none finds."""

    DUPLICATE = "duplicate"
    """All is right, but a better prediction found this truth before."""
    PREDICATE = "predicate"
    OBJECT_NAME = "object name"
    SUBJECT_NAME = "subject name"
    OBJECT_BOX = "object box"
    SUBJECT_BOX = "subject box"
    PAIR = "pair"
    """The names are right, but both boxes are off, or one is right and the other far off."""
    SEVERAL = "several"
    """The boxes touch those of a truth, but more than one thing is wrong."""
    BACKGROUND = "background"
    """No truth of the image is near."""
    MISSED = "missed"
    """A truth from which no prediction is one repair away."""


FALSE_POSITIVES = tuple(kind for kind in ErrorKind if kind is not ErrorKind.MISSED)
"""Kinds of wrong predictions, in the order in which a nearer truth takes precedence."""
_RIGHT = -1
_CODE: dict[ErrorKind, int] = {kind: code for code, kind in enumerate(FALSE_POSITIVES)}
_REPAIRED = tuple(kind for kind in FALSE_POSITIVES if 0 < _CODE[kind] < _CODE[ErrorKind.SEVERAL])
"""Kinds that a repair makes right. The others are removed."""


@dataclass(frozen=True)
class Dissection:
    """The kinds of errors of N predictions and T truths."""

    predicted: Relations
    """N: the predictions that count, by image, best first"""
    truth: Relations
    kind: NDArray[np.int8]
    """N: the position in FALSE_POSITIVES; -1 where the prediction is right"""
    target: Integers
    """N: the truth that a right prediction finds, or that a repair would lead to; -1 where there is none"""
    found: Flags
    """T: whether a right prediction finds the truth"""
    missed: Flags
    """T: whether no prediction is one repair away. Truths that are neither found nor missed are within reach."""

    @property
    def right(self) -> Flags:
        """N: whether the prediction is right."""
        return np.asarray(self.kind == _RIGHT)

    def of_kind(self, kind: ErrorKind) -> Flags:
        """N: whether the prediction has this kind of error. No prediction is of kind MISSED."""
        return np.asarray(self.kind == _CODE.get(kind, len(FALSE_POSITIVES)))

    @property
    def counts(self) -> dict[ErrorKind, int]:
        """Number of wrong predictions of each kind, and of missed truths."""
        return {
            kind: int((self.missed if kind is ErrorKind.MISSED else self.of_kind(kind)).sum()) for kind in ErrorKind
        }

    def repaired(self, kind: ErrorKind) -> Relations:
        """Returns the predictions after an oracle repaired one kind of error.

        The best prediction of the kind for each unfound truth becomes that truth, with its own score. The kind's other
        predictions are removed: one that is repaired twice would be a duplicate. Every missed truth is added as a
        prediction with the median score of right ones.
        """
        if kind is ErrorKind.MISSED:
            return self.with_found(self.missed)
        chosen = np.flatnonzero(self.of_kind(kind))
        if kind not in _REPAIRED:
            return self.predicted.take(~self.of_kind(kind))
        open_ = chosen[~self.found[self.target[chosen]]]
        _, first = np.unique(self.target[open_], return_index=True)
        winners = open_[first]
        kept = ~self.of_kind(kind)
        kept[winners] = True
        return _overwritten(self.predicted, winners, self.truth, self.target[winners]).take(kept)

    def with_found(self, truths: Flags) -> Relations:
        """Returns the predictions and one for each of some truths, with the median score of right ones."""
        scores = scores_of(self.predicted)
        score = float(np.median(scores[self.right])) if self.right.any() else 1.0
        added = self.truth.take(truths)
        joined = Relations.joined([self.predicted, replace(added, scores=np.full(len(added), score))])
        return joined.take(np.argsort(joined.image, kind="stable"))


@dataclass(frozen=True)
class Anatomy:
    """How much each kind of error occurs and costs."""

    score: float
    """The score of the predictions as they are"""
    right: int
    counts: Mapping[ErrorKind, int]
    within_reach: int
    """Truths that no prediction finds, but from which one is a single repair away"""
    costs: Mapping[ErrorKind, float]
    """Score after the repair of one kind, minus the score as it is"""
    false_positives: float
    """Cost of all wrong predictions together"""
    false_negatives: float
    """Cost of all unfound truths together"""


def anatomy(dissection: Dissection, score: Score) -> Anatomy:
    """Repairs each kind of error in turn and scores the result. `score` is called 3 + len(Kind) times at most."""
    truth = dissection.truth
    base = score(dissection.predicted, truth)
    counts = dissection.counts
    costs = {kind: score(dissection.repaired(kind), truth) - base if counts[kind] else 0.0 for kind in ErrorKind}
    return Anatomy(
        score=base,
        right=int(dissection.right.sum()),
        counts=counts,
        within_reach=int((~dissection.found & ~dissection.missed).sum()),
        costs=costs,
        false_positives=score(dissection.predicted.take(dissection.right), truth) - base,
        false_negatives=score(dissection.with_found(~dissection.found), truth) - base,
    )


def dissect(predicted: Relations, truth: Relations, per_image: int | None = 100) -> Dissection:
    """Gives each prediction that counts its kind of error. Raises ValueError if predictions have no scores.

    A prediction is right as in HICO-DET: all names agree, both boxes overlap enough, and no better prediction found the
    truth that it overlaps most. The best `per_image` predictions of each image count; None: all. For HICO-DET, the
    caller leaves out what its rules do not count (`Evaluated.counted`).
    """
    counted = best_first(predicted, per_image)
    kind = np.full(len(counted), _CODE[ErrorKind.BACKGROUND], dtype=np.int8)
    target = np.full(len(counted), -1, dtype=np.int64)
    found, reached = np.zeros(len(truth), dtype=bool), np.zeros(len(truth), dtype=bool)
    for near in near_truths(counted, truth):
        codes = _codes(near, counted, truth)
        if not len(codes):
            continue
        starts = np.flatnonzero(np.diff(near.prediction, prepend=-1))
        kind[near.prediction[starts]] = np.minimum.reduceat(codes, starts)
        full = np.flatnonzero(codes == 0)
        full = full[first_of_groups(near.prediction[full], -near.overlap[full])]
        truths, first = np.unique(near.truth[full], return_index=True)
        winners = near.prediction[full][first]
        found[truths] = True
        one_repair = codes < _CODE[ErrorKind.SEVERAL]
        reached[near.truth[one_repair]] = True
        aims = np.flatnonzero((codes == kind[near.prediction]) & one_repair)
        # Truths that are found come last: a repair towards one would give a duplicate.
        aims = aims[first_of_groups(near.prediction[aims], found[near.truth[aims]], -near.overlap[aims])]
        target[near.prediction[aims]] = near.truth[aims]
        # Written last: where nothing is wrong, only the winner is right, and others stay duplicates.
        kind[winners], target[winners] = _RIGHT, truths
    return Dissection(counted, truth, kind, target, found, ~found & ~reached)


class NearTruths(NamedTuple):
    """P pairs of a prediction and a truth of the same image, by prediction, with the overlap of their boxes."""

    prediction: Integers
    truth: Integers
    subject_iou: Floats
    object_iou: Floats

    @property
    def overlap(self) -> Floats:
        """P: the smaller of both IoUs."""
        return np.minimum(self.subject_iou, self.object_iou)


def near_truths(predicted: Relations, truth: Relations) -> Iterator[NearTruths]:
    """Yields every pair of a prediction and a truth of the same image, in blocks of whole images.

    Two boxes that are both absent (NaN) agree: IoU 1. One that is absent overlaps no other: IoU 0.
    """
    per_image = np.bincount(predicted.image, minlength=predicted.images)
    per_image *= np.bincount(truth.image, minlength=truth.images)
    block_of_image = np.concatenate([[0], np.cumsum(per_image)])[:-1] // PAIRS_AT_ONCE
    block = block_of_image[predicted.image]
    edges = np.append(np.flatnonzero(np.diff(block, prepend=-1)), len(block))
    for start, end in itertools.pairwise(edges):
        place, match = joined(predicted.image[start:end], truth.image)
        prediction = start + place
        yield NearTruths(
            prediction,
            match,
            _iou(predicted.subject_boxes[prediction], truth.subject_boxes[match]),
            _iou(predicted.object_boxes[prediction], truth.object_boxes[match]),
        )


def _codes(near: NearTruths, predicted: Relations, truth: Relations) -> NDArray[np.int8]:
    """P: what is wrong with the prediction if this truth was meant, as a position in FALSE_POSITIVES.

    0 (DUPLICATE) says that nothing is wrong.
    """
    subject = predicted.subject_labels[near.prediction] == truth.subject_labels[near.truth]
    object_ = predicted.object_labels[near.prediction] == truth.object_labels[near.truth]
    predicate = predicted.predicates[near.prediction] == truth.predicates[near.truth]
    names = subject & object_ & predicate
    subject_right, object_right = near.subject_iou >= OVERLAP, near.object_iou >= OVERLAP
    both = subject_right & object_right
    subject_touches, object_touches = near.subject_iou >= TOUCH, near.object_iou >= TOUCH
    touching = subject_touches & object_touches
    conditions = {
        ErrorKind.DUPLICATE: both & names,
        ErrorKind.PREDICATE: both & subject & object_,
        ErrorKind.OBJECT_NAME: both & subject & predicate,
        ErrorKind.SUBJECT_NAME: both & object_ & predicate,
        ErrorKind.OBJECT_BOX: names & subject_right & object_touches,
        ErrorKind.SUBJECT_BOX: names & object_right & subject_touches,
        ErrorKind.PAIR: names & (touching | subject_right | object_right),
        ErrorKind.SEVERAL: touching,
    }
    code = np.full(len(names), _CODE[ErrorKind.BACKGROUND], dtype=np.int8)
    for kind in reversed(conditions):  # the last one written takes precedence
        code[conditions[kind]] = _CODE[kind]
    return code


def _iou(left: Floats, right: Floats) -> Floats:
    """N: IoU of N×4 boxes with N×4 boxes, row by row; 1 where both are absent, 0 where one is."""
    absent = np.isnan(left[:, 0]) & np.isnan(right[:, 0])
    return np.asarray(np.where(absent, 1.0, np.nan_to_num(aligned_iou(left, right), nan=0.0)))


def _overwritten(predicted: Relations, rows: Integers, truth: Relations, truths: Integers) -> Relations:
    """Returns the predictions with some rows replaced by truths; scores stay."""
    columns = {}
    for name in ("subject_boxes", "object_boxes", "subject_labels", "object_labels", "predicates"):
        columns[name] = getattr(predicted, name).copy()
        columns[name][rows] = getattr(truth, name)[truths]
    return replace(predicted, **columns)
