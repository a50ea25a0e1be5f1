"""How much a score owes to the choice of test images: percentile intervals by resampling images (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.evaluation.interactions import Integers
from pipeline.evaluation.relations import Relations

Metric = Callable[[Integers], Mapping[str, float]]
"""Returns figures of the chosen images: ascending positions, of which one that occurs twice counts twice."""


@dataclass(frozen=True)
class Interval:
    """A figure on the test set, and the range in which it lies for most test sets of as many such images."""

    value: float
    low: float
    high: float
    resamples: int
    """Number of resamples in which the figure has a value."""


def bootstrap(
    metric: Metric, images: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Returns an interval for each figure of the metric, from test sets drawn with replacement from `images` images.

    A metric that keeps what it found of each image is fast: `lambda chosen: {"mAP": matches.scores(chosen).mean()}` with
    `matches = match_hico(...)`. Others score `resampled(predicted, chosen)` and `resampled(truth, chosen)`. A resample
    depends on the seed and its number alone. Resamples without a value (NaN) are left out. Raises ValueError without images
    or resamples, or for a level outside 0 to 1.
    """
    if images < 1 or resamples < 1 or not 0 < level < 1:
        raise ValueError(f"no intervals of level {level} from {resamples} resamples of {images} images")
    values = metric(np.arange(images))
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for number in range(resamples):
        chosen = np.sort(np.random.default_rng([seed, number]).integers(0, images, images))
        for name, value in metric(chosen).items():
            drawn[name].append(value)
    return {name: _interval(value, np.array(drawn[name]), level) for name, value in values.items()}


def resampled(relations: Relations, chosen: Integers) -> Relations:
    """Returns the relations of the chosen images, in that order and as often, numbered anew."""
    starts = np.searchsorted(relations.image, chosen, side="left")
    counts = np.searchsorted(relations.image, chosen, side="right") - starts
    before = np.cumsum(counts) - counts
    index = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    columns: dict[str, Any] = {
        field.name: None if (column := getattr(relations, field.name)) is None else column[index]
        for field in fields(relations)
        if field.name not in ("images", "image")
    }
    return Relations(images=len(chosen), image=np.repeat(np.arange(len(chosen)), counts), **columns)


def _interval(value: float, drawn: np.ndarray, level: float) -> Interval:
    there = drawn[~np.isnan(drawn)]
    if not len(there):
        return Interval(value, float("nan"), float("nan"), 0)
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), len(there))
