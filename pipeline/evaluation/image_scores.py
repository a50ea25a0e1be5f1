"""One score per image, to find images that are worth a look."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.anatomy import Dissection
from pipeline.evaluation.interactions import Floats, Integers


def image_precision(dissection: Dissection) -> Floats:
    """Returns the average precision within each image, over all its relations in one ranking. NaN without truth.

    It is the mean over the image's truths of the precision at the rank where each is found, 0 for those that are not. It
    ranks images and is not the benchmark's metric.
    """
    predicted, truth = dissection.predicted, dissection.truth
    first = np.searchsorted(predicted.image, predicted.image)
    rank = np.arange(len(predicted)) - first + 1
    found = np.cumsum(dissection.right)
    before = np.concatenate([[0], found])[first]
    gained = np.where(dissection.right, (found - before) / rank, 0.0)
    total = np.bincount(predicted.image, weights=gained, minlength=truth.images)
    truths = np.bincount(truth.image, minlength=truth.images)
    precision: Floats = np.divide(total, truths, out=np.full(truth.images, np.nan), where=truths > 0)
    return precision


def best_and_worst(precision: Floats, truths: NDArray[np.int64], count: int) -> tuple[Integers, Integers]:
    """Returns the positions of the `count` best and worst images. Among equals, those with more truths come first.

    Images without truth are never chosen, and none is both.
    """
    judged = np.flatnonzero(np.isfinite(precision))
    best = judged[np.lexsort((-truths[judged], -precision[judged]))]
    worst = judged[np.lexsort((-truths[judged], precision[judged]))]
    chosen = best[: min(count, (len(judged) + 1) // 2)]
    return chosen, worst[~np.isin(worst, chosen)][:count]
