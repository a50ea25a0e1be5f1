"""Eleven-point average precision of many categories at once, from ranked predictions that are right or wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.interactions import Floats, Integers

FLOAT_THRESHOLDS = np.arange(0, 1.1, 0.1)
"""Recall thresholds of the public evaluators. Three of them are above the tenth they stand for (0.30000000000000004)."""


def eleven_points(
    right: NDArray[np.bool_],
    bounds: Integers,
    truths: Integers,
    weights: Integers | None = None,
    *,
    official: bool = False,
) -> tuple[Floats, Floats]:
    """Returns the average precision and the greatest recall of K categories.

    `right` marks the correct ones of R predictions, ordered by category, and best first in each; category k has those
    from `bounds[k]` to `bounds[k + 1]` (K+1), and `truths[k]` true instances. `weights` (R) says how often a prediction
    counts, once by default: the outcome is that of a list with as many copies of it.

    The average precision is the mean over recalls t of 0, 0.1, ... 1 of the greatest precision at a recall of at least
    t (Everingham et al. 2010). `official` compares with `FLOAT_THRESHOLDS`, by which a recall of exactly 3, 6 or 7
    tenths misses its threshold.
    """
    places = np.flatnonzero(right)
    counts = np.ones(len(right), np.int64) if weights is None else weights.astype(np.int64)
    ranked = np.concatenate([[0], np.cumsum(counts)])
    found = np.concatenate([[0], np.cumsum(counts[places])])
    starts = np.searchsorted(places, bounds)
    firsts, ends = starts[:-1], starts[1:]
    category = np.repeat(np.arange(len(truths)), ends - firsts)
    hits = found[1:] - found[firsts][category]
    total = ranked[places + 1] - ranked[bounds[:-1]][category]
    # Only hits matter: precision falls and recall stays at whatever follows them. The last element ends each range below.
    precision = np.append(hits / np.maximum(total, 1), 0.0)
    of_category = truths[category]
    recall = hits / np.maximum(of_category, 1)
    average = np.zeros(len(truths))
    for tenth in range(11):
        below = recall < FLOAT_THRESHOLDS[tenth] if official else 10 * hits < tenth * of_category
        behind = np.concatenate([[0], np.cumsum(below)])
        reached = firsts + behind[ends] - behind[firsts]
        best = np.maximum.reduceat(precision, np.stack([reached, ends], axis=1).reshape(-1))[::2]
        average += np.where(reached < ends, best, 0.0)
    return average / 11, (found[ends] - found[firsts]) / np.maximum(truths, 1)
