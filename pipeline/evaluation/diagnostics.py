"""Details behind a benchmark's figure: which pairs are located and how named, calibration, and image scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.anatomy import OVERLAP, Dissection, NearTruths, near_truths
from pipeline.evaluation.matching import first_of_groups, numbered, numbered_alike, pair_numbers
from pipeline.evaluation.ranking import Ranking, mean_of
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, scores_of
from tagger.labelling.calibration import calibration_error


@dataclass(frozen=True)
class PairQuality:
    """Recall of true pairs and the average precision of predicates on located pairs. NaN where there is no truth."""

    pairs: int
    """True pairs: two boxes of one image with the same names, whatever and however many their predicates"""
    pair_recall: float
    """Share of true pairs on whose two boxes some prediction lies, whatever its names"""
    named_recall: float
    """Share of true pairs that a prediction with the right names of both boxes locates"""
    subject_recall: float
    """Share of true pairs whose subject box some prediction has as its subject box"""
    object_recall: float
    predicate_precision: Mapping[int, float]
    """Average precision of each predicate among predictions on located, rightly named pairs"""
    predicate_truths: Mapping[int, int]
    """Truths of each predicate on such pairs"""

    @property
    def mean_predicate_precision(self) -> float:
        """Mean over predicates; NaN without any."""
        return mean_of(self.predicate_precision.values())


def pair_quality(dissection: Dissection) -> PairQuality:
    """Measures the pairs and predicates of a dissection.

    On located pairs a prediction is right when the pair has its predicate. It counts once per pair and predicate, with
    its best score, so neither boxes nor duplicates enter the average precision, the area under the precision envelope.
    """
    predicted, truth = dissection.predicted, dissection.truth
    pair_of_truth = pair_numbers(truth)
    pairs = int(pair_of_truth.max()) + 1 if len(truth) else 0
    located, named, subject, object_ = (np.zeros(pairs, dtype=bool) for _ in range(4))
    pair_of_prediction = np.full(len(predicted), -1, dtype=np.int64)
    for near in near_truths(predicted, truth):
        pair = pair_of_truth[near.truth]
        subject_right, object_right = near.subject_iou >= OVERLAP, near.object_iou >= OVERLAP
        both = subject_right & object_right
        names = _same_names(near, predicted, truth)
        subject[pair[subject_right]] = True
        object_[pair[object_right]] = True
        located[pair[both]] = True
        named[pair[both & names]] = True
        rows = np.flatnonzero(both & names)
        rows = rows[first_of_groups(near.prediction[rows], -near.overlap[rows])]
        pair_of_prediction[near.prediction[rows]] = pair[rows]
    true = np.flatnonzero(named[pair_of_truth])
    true = true[first_of_groups(numbered([pair_of_truth[true], truth.predicates[true]]))]
    on_pair = np.flatnonzero(pair_of_prediction >= 0)
    stated = [pair_of_prediction[on_pair], predicted.predicates[on_pair]]
    rows = np.sort(first_of_groups(numbered(stated), -scores_of(predicted)[on_pair]))
    right = np.isin(*numbered_alike([each[rows] for each in stated], [pair_of_truth[true], truth.predicates[true]]))
    asked, given = predicted.take(on_pair[rows]), truth.take(true)
    ranking = Ranking.of(asked, right, asked.predicates, given, given.predicates)
    precision, truths = ranking.precision(), dict(zip(ranking.kinds, ranking.counted()[1].tolist(), strict=True))

    def share(flags: Flags) -> float:
        return float(flags.mean()) if pairs else float("nan")

    return PairQuality(pairs, share(located), share(named), share(subject), share(object_), precision, truths)


def confused_predicates(dissection: Dissection) -> Integers:
    """Returns M×2 predicates: of a truth, and the wrong one that the best prediction on its pair names instead.

    A prediction is on a pair if its names are right and its boxes are right. Those that name
    another true predicate of the pair are passed over.
    """
    predicted, truth = dissection.predicted, dissection.truth
    best = np.full(len(truth), -1, dtype=np.int64)
    # Numbers of pair and predicate at once, since there may be many millions of near truths.
    count = 1 + max(predicted.predicates.max(initial=0), truth.predicates.max(initial=0))
    pair = pair_numbers(truth) * count
    stated = pair + truth.predicates
    for near in near_truths(predicted, truth):
        named = predicted.predicates[near.prediction]
        own = named == truth.predicates[near.truth]
        counted = own | ~np.isin(pair[near.truth] + named, stated)
        rows = np.flatnonzero((near.overlap >= OVERLAP) & _same_names(near, predicted, truth) & counted)
        # Predictions come best first.
        rows = rows[first_of_groups(near.truth[rows], near.prediction[rows])]
        best[near.truth[rows]] = near.prediction[rows]
    found = np.flatnonzero(best >= 0)
    both = np.stack([truth.predicates[found], predicted.predicates[best[found]]], axis=1)
    return np.asarray(both[both[:, 0] != both[:, 1]])


def _same_names(near: NearTruths, predicted: Relations, truth: Relations) -> Flags:
    subjects = predicted.subject_labels[near.prediction] == truth.subject_labels[near.truth]
    return np.asarray(subjects & (predicted.object_labels[near.prediction] == truth.object_labels[near.truth]))


BINS = 10


class ReliabilityBin(NamedTuple):
    """The predictions whose score is in [low, high); the last bin includes 1."""

    low: float
    high: float
    predictions: int
    confidence: float
    """Mean score; NaN in an empty bin"""
    precision: float
    """Share of right predictions; NaN in an empty bin"""


@dataclass(frozen=True)
class Reliability:
    """Reliability of scores."""

    bins: tuple[ReliabilityBin, ...]
    expected_error: float
    """Mean gap between score and precision over bins, weighted by their predictions (ECE); NaN without predictions"""


def calibration(scores: Floats, right: Flags) -> Reliability:
    """Compares N scores, which must be in [0, 1], with the share of right predictions, in `BINS` of equal width."""
    edges = np.arange(BINS + 1) / BINS
    number = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(number, minlength=BINS)
    confidence = _ratio(np.bincount(number, weights=scores, minlength=BINS), count)
    precision = _ratio(np.bincount(number, weights=right, minlength=BINS), count)
    rows = tuple(
        ReliabilityBin(float(low), float(high), int(size), float(mean), float(share))
        for low, high, size, mean, share in zip(edges[:-1], edges[1:], count, confidence, precision, strict=True)
    )
    error = calibration_error(scores, right, BINS)
    return Reliability(rows, float("nan") if error is None else error)


def _ratio(total: NDArray[Any], count: NDArray[Any]) -> Floats:
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def image_precision(dissection: Dissection) -> Floats:
    """Returns the average precision within each image, over all its relations in one ranking. NaN without truth.

    It is the mean over the image's truths of the precision at the rank where each is found, 0 for those that are not.
    It ranks images and is not the benchmark's metric.
    """
    predicted, truth = dissection.predicted, dissection.truth
    first = np.searchsorted(predicted.image, predicted.image)
    rank = np.arange(len(predicted)) - first + 1
    found = np.cumsum(dissection.right)
    before = np.concatenate([[0], found])[first]
    gained = np.where(dissection.right, (found - before) / rank, 0.0)
    total = np.bincount(predicted.image, weights=gained, minlength=truth.images)
    truths = np.bincount(truth.image, minlength=truth.images)
    return _ratio(total, truths)


def best_and_worst(precision: Floats, truths: NDArray[np.int64], count: int) -> tuple[Integers, Integers]:
    """Returns the positions of the `count` best and worst images. Among equals, those with more truths come first.

    Images without truth are never chosen, and none is both.
    """
    judged = np.flatnonzero(np.isfinite(precision))
    best = judged[np.lexsort((-truths[judged], -precision[judged]))]
    worst = judged[np.lexsort((-truths[judged], precision[judged]))]
    chosen = best[: min(count, (len(judged) + 1) // 2)]
    return chosen, worst[~np.isin(worst, chosen)][:count]
