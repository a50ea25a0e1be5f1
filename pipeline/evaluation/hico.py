"""Mean average precision of HICO-DET (Chao et al. 2018, default setting), as the public evaluators compute it.

Rules: The 100 best interactions per image count, except duplicates, which pairwise suppression within equal triplets
removes. A prediction is correct when a true interaction has the same three labels and both boxes overlap by at least half
(+1 pixel convention). Each truth is found once. The score is the mean 11-point average precision over the true triplets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.interactions import Floats, Integers, Interactions, pixel_iou, suppress

RECALL_POINTS = np.arange(0, 1.1, 0.1)


class Triplet(NamedTuple):
    """The labels of an interaction, as indices into the names of the test set."""

    subject: int
    object: int
    predicate: int


@dataclass(frozen=True)
class HicoRules:
    """The rules that the public evaluators fix."""

    per_image: int = 100
    """Number of interactions per image that count, taken best first."""
    overlap: float = 0.5
    """Minimum IoU of both boxes."""
    suppression: float | None = 0.7
    """Weighted overlap above which two pairs of one triplet are duplicates. None keeps duplicates."""
    subject_power: float = 1.0
    object_power: float = 0.5
    """The weighted overlap is IoU_subject ** subject_power * IoU_object ** object_power."""
    images_without_truth: bool = True
    """Whether predictions on images without ground truth count as wrong. The authors' code ignores them."""


@dataclass(frozen=True)
class HicoScores:
    """Average precision and maximum recall per triplet of the ground truth."""

    average_precision: Mapping[Triplet, float]
    recall: Mapping[Triplet, float]
    truths: Mapping[Triplet, int] = field(default_factory=dict)
    """Number of true interactions in the test set, per triplet."""

    def mean(self, triplets: Iterable[Triplet] | None = None) -> float:
        """Returns the mean AP over all triplets, or over those of `triplets` in the ground truth. NaN if there are none."""
        chosen = self.average_precision.keys() if triplets is None else set(triplets) & self.average_precision.keys()
        return float(np.mean([self.average_precision[t] for t in sorted(chosen)])) if chosen else float("nan")

    @property
    def mean_recall(self) -> float:
        """Mean over triplets of the maximum recall."""
        return float(np.mean(list(self.recall.values()))) if self.recall else float("nan")


def score_hico(
    predictions: Sequence[Interactions], truths: Sequence[Interactions], rules: HicoRules | None = None
) -> HicoScores:
    """Scores predictions against the truth of the same images in the same order. Raises ValueError on unequal lengths."""
    rules = rules or HicoRules()
    every_truth = np.concatenate([truth.triplets for truth in truths] or [np.zeros((0, 3), np.int64)])
    kinds, truth_counts = np.unique(every_truth, axis=0, return_counts=True)
    triplet, score, right = [], [], []
    for predicted, truth in zip(predictions, truths, strict=True):
        if not len(truth) and not rules.images_without_truth:
            continue
        kept = without_duplicates(predicted, rules)
        triplet.append(kept.triplets)
        score.append(_scores(kept))
        right.append(_right(kept, truth, rules.overlap))
    numbers = _numbered(np.concatenate(triplet or [np.zeros((0, 3), np.int64)]), kinds)
    scores = np.concatenate(score or [np.zeros(0)])
    hits = np.concatenate(right or [np.zeros(0, bool)])
    # Within a triplet the best comes first, and ties keep the order of images.
    order = np.lexsort((-scores, numbers))
    numbers, hits = numbers[order], hits[order]
    bounds = np.searchsorted(numbers, np.arange(len(kinds) + 1))
    precision: dict[Triplet, float] = {}
    recall: dict[Triplet, float] = {}
    names = [Triplet(*(int(label) for label in kind)) for kind in kinds]
    for number, name in enumerate(names):
        found = hits[bounds[number] : bounds[number + 1]]
        precision[name], recall[name] = eleven_points(found, int(truth_counts[number]))
    return HicoScores(precision, recall, dict(zip(names, (int(count) for count in truth_counts), strict=True)))


def without_duplicates(predicted: Interactions, rules: HicoRules) -> Interactions:
    """Takes the best `per_image` interactions of an image and suppresses duplicates of a triplet. Sorts best first."""
    best = predicted.take(np.argsort(-_scores(predicted), kind="stable")[: rules.per_image])
    if rules.suppression is None or not len(best):
        return best
    kinds = best.triplets
    same = (kinds[:, None] == kinds[None, :]).all(axis=2)
    overlaps = (
        pixel_iou(best.subject_boxes, best.subject_boxes) ** rules.subject_power
        * pixel_iou(best.object_boxes, best.object_boxes) ** rules.object_power
    )
    return best.take(suppress(_scores(best), overlaps, same, rules.suppression))


def eleven_points(hits: np.ndarray, truths: int) -> tuple[float, float]:
    """Returns 11-point average precision and maximum recall. `hits` marks correct predictions, best first."""
    if not len(hits):
        return 0.0, 0.0
    found = np.cumsum(hits)
    recall = found / truths
    precision = found / np.arange(1, len(hits) + 1)
    ceiling = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(recall, RECALL_POINTS, side="left")
    reached = np.append(ceiling, 0.0)[first]
    return float(reached.sum() / len(RECALL_POINTS)), float(recall[-1])


def _right(predicted: Interactions, truth: Interactions, overlap: float) -> np.ndarray:
    """Marks each prediction that is the first to find the truth it overlaps most. Predictions are sorted best first."""
    right = np.zeros(len(predicted), dtype=bool)
    if not len(truth) or not len(predicted):
        return right
    subject = pixel_iou(predicted.subject_boxes, truth.subject_boxes)
    object_ = pixel_iou(predicted.object_boxes, truth.object_boxes)
    same = (predicted.triplets[:, None] == truth.triplets[None, :]).all(axis=2)
    least = np.where(same & (subject >= overlap) & (object_ >= overlap), np.minimum(subject, object_), -1.0)
    best = least.argmax(axis=1)
    candidates = np.flatnonzero(least.max(axis=1) > 0)
    _, first = np.unique(best[candidates], return_index=True)
    right[candidates[first]] = True
    return right


def _numbered(triplets: Integers, kinds: Integers) -> Integers:
    """Returns the row of `kinds` (sorted, unique) that equals each triplet, or len(kinds) where none does."""
    if not len(kinds) or not len(triplets):
        return np.full(len(triplets), len(kinds), dtype=np.int64)
    base = int(max(kinds.max(), triplets.max())) + 1
    weights = np.array([base * base, base, 1], dtype=np.int64)
    known, asked = kinds @ weights, triplets @ weights
    place = np.searchsorted(known, asked).clip(max=len(known) - 1)
    return np.where(known[place] == asked, place, len(kinds)).astype(np.int64)


def _scores(predicted: Interactions) -> Floats:
    if predicted.scores is None:
        raise ValueError("predictions have no scores; only ground truth may lack them")
    return predicted.scores
