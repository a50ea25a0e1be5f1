"""The evaluator that RLIPv2, QPIC and others run on V-COCO while they train: average precision of pairs by action and role.

Rules: The 100 best relations of an image count. A relation is correct if a true one has the same predicate, and boxes and
labels of both ends agree (IoU of at least half, +1 pixel convention); where the truth has no object, the subject alone
decides. Each truth is found once, by the first relation that overlaps it most. It is no substitute for `vcoco`, whose
figures papers report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.matching import Candidates, aligned_iou, joined, numbered_alike
from pipeline.evaluation.ranking import best_first, check_test_set, eleven_points, scores_of
from pipeline.evaluation.relations import Relations


@dataclass(frozen=True)
class VcocoPairRules:
    """The rules that the evaluator fixes."""

    per_image: int = 100
    """Number of relations per image that count, taken best first."""
    overlap: float = 0.5
    """Minimum IoU of both boxes."""
    official: bool = False
    """Whether predicates that the truth lacks count as zero in a mean over given predicates, and recall is compared with
    floats. Both make figures lower."""


@dataclass(frozen=True)
class VcocoPairScores:
    """Eleven-point average precision per predicate of the truth."""

    average_precision: Mapping[int, float]
    truths: Mapping[int, int]
    official: bool = False

    def mean(self, predicates: Collection[int] | None = None) -> float:
        """Returns the mean AP over the predicates of the truth, or over those of `predicates` among them; NaN for none.

        The authors' "mAP thesis" is the mean over the 24 names with a role, without "point" and the one-word actions.
        """
        if predicates is None:
            values = [*self.average_precision.values()]
        elif self.official:
            values = [self.average_precision.get(each, 0.0) for each in predicates]
        else:
            values = [self.average_precision[each] for each in predicates if each in self.average_precision]
        return float(np.mean(values)) if values else float("nan")


def score_vcoco_pairs(predicted: Relations, truth: Relations, rules: VcocoPairRules | None = None) -> VcocoPairScores:
    """Scores relations against the truth of the same images. Raises ValueError as `check_test_set` does."""
    rules = rules or VcocoPairRules()
    check_test_set(predicted, truth)
    predicted = best_first(predicted, rules.per_image)
    right = _candidates(predicted, truth, rules.overlap).first_finds(len(predicted))
    order = np.lexsort((-scores_of(predicted), predicted.predicates))
    ranked, right = predicted.predicates[order], right[order]
    kinds, counts = np.unique(truth.predicates, return_counts=True)
    truths = {int(kind): int(count) for kind, count in zip(kinds, counts, strict=True)}
    return VcocoPairScores(
        {
            kind: eleven_points(
                right[slice(*np.searchsorted(ranked, [kind, kind + 1]))], count, official=rules.official
            )
            for kind, count in truths.items()
        },
        truths,
        rules.official,
    )


def _candidates(predicted: Relations, truth: Relations, overlap: float) -> Candidates:
    found, given = numbered_alike(
        [predicted.image, predicted.predicates, predicted.subject_labels],
        [truth.image, truth.predicates, truth.subject_labels],
    )
    prediction, true = joined(found, given)
    subject = aligned_iou(predicted.subject_boxes[prediction], truth.subject_boxes[true])
    object_ = aligned_iou(predicted.object_boxes[prediction], truth.object_boxes[true])
    object_[predicted.object_labels[prediction] != truth.object_labels[true]] = 0.0
    without = np.asarray(np.isnan(truth.object_boxes).any(axis=1))[true]
    every = Candidates(prediction, true, np.where(without, subject, np.minimum(subject, object_)))
    return every.take(every.overlap >= overlap)
