"""Where a network stands apart from its mAP: how many true pairs it locates, and how well it names the located ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.anatomy import Dissection, near_truths
from pipeline.evaluation.interactions import Floats, Integers
from pipeline.evaluation.relations import Relations


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
        values = list(self.predicate_precision.values())
        return float(np.mean(values)) if values else float("nan")


def pair_quality(dissection: Dissection, overlap: float = 0.5) -> PairQuality:
    """Measures the pairs and predicates of a dissection. `overlap`: least IoU of a right box.

    On located pairs a prediction is right when the pair has its predicate. It counts once per pair and predicate, with its
    best score, so neither boxes nor duplicates enter the average precision, which is the area under the precision envelope.
    """
    predicted, truth = dissection.predicted, dissection.truth
    pair_of_truth = _pairs(truth)
    pairs = int(pair_of_truth.max()) + 1 if len(truth) else 0
    located, named, subject, object_ = (np.zeros(pairs, dtype=bool) for _ in range(4))
    pair_of_prediction = np.full(len(predicted), -1, dtype=np.int64)
    for near in near_truths(predicted, truth):
        pair = pair_of_truth[near.truth]
        subject_right, object_right = near.subject_iou >= overlap, near.object_iou >= overlap
        both = subject_right & object_right
        names = (predicted.subject_labels[near.prediction] == truth.subject_labels[near.truth]) & (
            predicted.object_labels[near.prediction] == truth.object_labels[near.truth]
        )
        subject[pair[subject_right]] = True
        object_[pair[object_right]] = True
        located[pair[both]] = True
        named[pair[both & names]] = True
        rows = np.flatnonzero(both & names)
        order = np.lexsort((-near.overlap[rows], near.prediction[rows]))
        rows = rows[order[np.flatnonzero(np.diff(near.prediction[rows][order], prepend=-1))]]
        pair_of_prediction[near.prediction[rows]] = pair[rows]
    precision, truths = _predicate_precision(predicted, truth, pair_of_prediction, pair_of_truth, named)

    def share(flags: NDArray[np.bool_]) -> float:
        return float(flags.mean()) if pairs else float("nan")

    return PairQuality(pairs, share(located), share(named), share(subject), share(object_), precision, truths)


def area_under_precision(right: NDArray[np.bool_], truths: int) -> float:
    """Returns the area under the precision envelope. `right` marks right predictions, best first; `truths` > 0."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / truths)


def _pairs(truth: Relations) -> Integers:
    """T: the number of each truth's pair, counted from 0."""
    # NaN differs from NaN, but absent boxes of one image are the same.
    boxes = np.nan_to_num(np.concatenate([truth.subject_boxes, truth.object_boxes], axis=1), nan=-1.0)
    labels = np.stack([truth.image, truth.subject_labels, truth.object_labels], axis=1)
    _, number = np.unique(np.concatenate([labels, boxes], axis=1), axis=0, return_inverse=True)
    return np.asarray(number.reshape(-1), dtype=np.int64)


def _predicate_precision(
    predicted: Relations,
    truth: Relations,
    pair_of_prediction: Integers,
    pair_of_truth: Integers,
    named: NDArray[np.bool_],
) -> tuple[dict[int, float], dict[int, int]]:
    vocabulary = int(max(predicted.predicates.max(initial=-1), truth.predicates.max(initial=-1))) + 1
    true_keys = np.unique((pair_of_truth * vocabulary + truth.predicates)[named[pair_of_truth]])
    on_pair = np.flatnonzero(pair_of_prediction >= 0)
    scores = _scores(predicted)[on_pair]
    keys = pair_of_prediction[on_pair] * vocabulary + predicted.predicates[on_pair]
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(keys[order], return_index=True)
    kept = order[np.sort(first)]
    right = np.isin(keys[kept], true_keys)
    predicate = keys[kept] % max(vocabulary, 1)
    by_predicate = np.argsort(predicate, kind="stable")
    bounds = np.searchsorted(predicate[by_predicate], np.arange(vocabulary + 1))
    truths = np.bincount(true_keys % max(vocabulary, 1), minlength=vocabulary)
    precision = {
        int(each): area_under_precision(right[by_predicate[bounds[each] : bounds[each + 1]]], int(truths[each]))
        for each in np.flatnonzero(truths)
    }
    return precision, {each: int(truths[each]) for each in precision}


def _scores(predicted: Relations) -> Floats:
    if predicted.scores is None:
        raise ValueError("predictions have no scores; only ground truth may lack them")
    return predicted.scores
