"""Predictions in the order in which metrics count them, and the precision of such an order."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation import average_precision
from pipeline.evaluation.interactions import Floats, Integers
from pipeline.evaluation.matching import Flags
from pipeline.evaluation.relations import Relations


def check_test_set(predicted: Relations, truth: Relations) -> None:
    """Raises ValueError if both are not of the same images, or predictions have no scores, or scores that are NaN."""
    if predicted.images != truth.images:
        raise ValueError(f"predictions of {predicted.images} images, but ground truth of {truth.images}")
    if predicted.scores is None:
        raise ValueError("predictions have no scores; only ground truth may lack them")
    unordered = int(np.isnan(predicted.scores).sum())
    if unordered:
        raise ValueError(f"{unordered} of {len(predicted)} predictions have the score NaN, which has no rank")


def scores_of(predicted: Relations) -> Floats:
    """Returns the scores of predictions that `check_test_set` has seen."""
    assert predicted.scores is not None
    return predicted.scores


def best_first(predicted: Relations, limit: int | None = None) -> Relations:
    """Sorts the predictions of each image, best first, and takes `limit` of each. Equal scores keep their order."""
    ordered = predicted.take(np.lexsort((-scores_of(predicted), predicted.image)))
    return ordered if limit is None else ordered.take(places(ordered.image) < limit)


def places(groups: Integers) -> Integers:
    """Returns N: the place of each item within its group, from 0. Groups may be mixed."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    place = np.empty(len(groups), np.int64)
    place[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return place


def area_under_precision(hits: Flags, truths: int, weights: Integers | None = None) -> float:
    """Returns average precision as PASCAL VOC does since 2010: the area under the falling envelope of precision.

    `hits` marks correct predictions, best first. Without a truth it is NaN, without a prediction 0. `weights` says how
    often a prediction counts, once by default: the outcome is that of a list with as many copies of it.
    """
    if not truths:
        return float("nan")
    times = np.ones(len(hits), np.int64) if weights is None else weights
    ranked, found = np.cumsum(times), np.cumsum(times * hits)
    ceiling = np.maximum.accumulate((found / np.maximum(ranked, 1))[::-1])[::-1]
    return float((ceiling * times)[hits].sum() / truths)


def eleven_points(hits: Flags, truths: int, *, official: bool = False) -> float:
    """Returns the eleven-point average precision of one category (`average_precision.eleven_points`); NaN without a truth.

    `hits` marks correct predictions, best first.
    """
    if not truths:
        return float("nan")
    precision, _ = average_precision.eleven_points(
        hits, np.array([0, len(hits)]), np.array([truths]), official=official
    )
    return float(precision[0])
