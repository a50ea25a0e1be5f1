"""Calibration: whether a score of 0.8 is right in eight of ten cases (Guo et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.interactions import Floats


class ReliabilityBin(NamedTuple):
    """The predictions whose score lies in [low, high); the last bin includes 1."""

    low: float
    high: float
    predictions: int
    confidence: float
    """Mean score; NaN in an empty bin"""
    precision: float
    """Share of right predictions; NaN in an empty bin"""


@dataclass(frozen=True)
class Calibration:
    """Reliability of scores."""

    bins: tuple[ReliabilityBin, ...]
    expected_error: float
    """Mean gap between score and precision over bins, weighted by their predictions (ECE); NaN without predictions"""


def calibration(scores: Floats, right: NDArray[np.bool_], bins: int = 10) -> Calibration:
    """Compares N scores in [0, 1] with what is right, in bins of equal width. Raises ValueError on other scores."""
    if len(scores) and not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise ValueError("calibration needs scores in [0, 1]")
    edges = np.arange(bins + 1) / bins
    number = np.minimum((scores * bins).astype(np.int64), bins - 1)
    count = np.bincount(number, minlength=bins)
    confidence = _ratio(np.bincount(number, weights=scores, minlength=bins), count)
    precision = _ratio(np.bincount(number, weights=right, minlength=bins), count)
    rows = tuple(
        ReliabilityBin(float(low), float(high), int(size), float(mean), float(share))
        for low, high, size, mean, share in zip(edges[:-1], edges[1:], count, confidence, precision, strict=True)
    )
    if not len(scores):
        return Calibration(rows, float("nan"))
    gap, share = np.nan_to_num(np.abs(confidence - precision)), count / len(scores)
    return Calibration(rows, float((gap * share).sum()))


def _ratio(total: NDArray[Any], count: NDArray[Any]) -> Floats:
    ratio: Floats = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return ratio
