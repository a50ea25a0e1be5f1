"""Predictions in the order in which metrics count them, and the average precision of such an order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, scores_of

PER_IMAGE = 100
"""Predictions of an image that most benchmarks count, the best ones."""
FLOAT_THRESHOLDS = np.arange(0, 1.1, 0.1)
"""Recall thresholds of the public evaluators. Three exceed the tenth that they stand for (0.30000000000000004)."""


@dataclass(frozen=True)
class Ranking:
    """R predictions of K categories, each right or wrong, and T truths.

    Any choice of images can be scored from them without matching again, since images are matched one by one.
    """

    kinds: Sequence[Any]
    """The K categories"""
    images: int
    """Number of images of the test set."""
    bounds: Integers
    """K+1: the predictions of category k are those from `bounds[k]` to `bounds[k + 1]`, best first."""
    image: Integers
    """R: each prediction's image."""
    right: Flags
    """R: whether it is the first to find its truth."""
    truth: Integers
    truth_image: Integers
    """T: number of the category, and image, of each truth."""

    @classmethod
    def of(
        cls, predicted: Relations, right: Flags, labels: Integers, truth: Relations, true_labels: Integers
    ) -> Ranking:
        """Ranks N predictions of each category of the truth by their scores. Equal scores keep their order."""
        kinds, number = np.unique(true_labels, return_inverse=True)
        order = np.lexsort((-scores_of(predicted), labels))
        order = order[np.isin(labels[order], kinds)]
        bounds = np.append(np.searchsorted(labels[order], kinds), len(order))
        return cls(kinds.tolist(), truth.images, bounds, predicted.image[order], right[order], number, truth.image)

    def counted(self, chosen: Integers | None = None) -> tuple[Integers, Integers]:
        """Returns how often each prediction counts, and the number of truths of each category.

        `chosen`: positions of images (repeated ones count repeatedly); by default, all.
        """
        times = times_of(chosen, self.images)
        truths = np.bincount(self.truth, times[self.truth_image], minlength=len(self.bounds) - 1)
        return times[self.image], truths.astype(np.int64)

    def areas(self, chosen: Integers | None = None) -> tuple[Floats, Floats]:
        """Returns the average precision and the greatest recall of each category; NaN without a truth, else at least 0.

        Average precision is the area under the falling envelope of precision, as in PASCAL VOC since 2010.
        """
        weights, truths = self.counted(chosen)
        area, recall = np.full(len(truths), np.nan), np.full(len(truths), np.nan)
        for category in np.flatnonzero(truths).tolist():
            own = slice(self.bounds[category], self.bounds[category + 1])
            # Only hits matter: until the next one, precision falls and recall stays.
            hits, times = np.flatnonzero(self.right[own]), weights[own]
            ranked, found = np.cumsum(times)[hits], np.cumsum(times[hits])
            ceiling = np.maximum.accumulate((found / np.maximum(ranked, 1))[::-1])[::-1]
            area[category] = (ceiling * times[hits]).sum() / truths[category]
            recall[category] = times[hits].sum() / truths[category]
        return area, recall

    def precision(self, chosen: Integers | None = None) -> dict[Any, float]:
        """Returns the area under the precision by category."""
        return dict(zip(self.kinds, self.areas(chosen)[0].tolist(), strict=True))


@dataclass(frozen=True)
class GroupRecall:
    """The share of each of G groups of an image's truths that its K best predictions find."""

    images: int
    """Number of images of the test set."""
    image: Integers
    predicate: Integers
    """G: the group's image, and the predicate of its first truth."""
    found: Mapping[int, Floats]
    """K → G."""

    @classmethod
    def of(cls, truth: Relations, groups: Integers, places: Integers, limits: Sequence[int]) -> GroupRecall:
        """Counts the T truths that are found at a place before each K. `groups` are T numbers."""
        _, first, group, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        found = {k: np.bincount(group, weights=places < k, minlength=len(counts)) / counts for k in limits}
        return cls(truth.images, truth.image[first], truth.predicates[first], found)

    def means(self, chosen: Integers | None = None) -> dict[int, float]:
        """Returns the mean over the groups of the chosen images by K; NaN without a group."""
        times = times_of(chosen, self.images)[self.image]
        total = times.sum()
        return {k: float((each * times).sum() / total) if total else float("nan") for k, each in self.found.items()}

    def by_predicate(self, chosen: Integers | None = None) -> dict[int, dict[int, float]]:
        """Returns the means of predicates by K, without predicates that no chosen image has."""
        times = times_of(chosen, self.images)[self.image]
        total = np.bincount(self.predicate, times)
        there = np.flatnonzero(total)
        sums = {k: np.bincount(self.predicate, each * times) for k, each in self.found.items()}
        means = {k: (each[there] / total[there]).tolist() for k, each in sums.items()}
        return {k: dict(zip(there.tolist(), each, strict=True)) for k, each in means.items()}


class Recalls(NamedTuple):
    """Recalls of one choice of images."""

    figures: dict[str, float]
    """By name and K, e.g. "R@50"; NaN without a truth."""
    by_predicate: dict[int, float]
    """At the greatest K."""


@dataclass(frozen=True)
class RecallMatches:
    """Which truths are found, in groups by figure."""

    shares: Mapping[str, GroupRecall]
    """By the figure that is their mean, e.g. "R"."""
    classes: str
    """The figure whose groups give the recalls of predicates."""
    over_predicates: tuple[str, ...] = ()
    """Figures that are means over predicates of the means of each."""
    predicates: int | None = None
    """Number of predicates of these; those that no image has count as 0. None leaves them out."""

    def scores(self, chosen: Integers | None = None) -> Recalls:
        """Returns the recalls of the chosen images (positions; repeated ones count repeatedly), all by default."""
        means = {name: self.shares[name].by_predicate(chosen) for name in {self.classes, *self.over_predicates}}
        figures: dict[str, float] = {}
        for name, share in self.shares.items():
            over = name in self.over_predicates
            values = {k: self._mean(each) for k, each in means[name].items()} if over else share.means(chosen)
            figures |= {f"{name}@{k}": value for k, value in values.items()}
        return Recalls(figures, means[self.classes][max(self.shares[self.classes].found)])

    def _mean(self, by_predicate: Mapping[int, float]) -> float:
        absent = 0 if self.predicates is None else self.predicates - len(by_predicate)
        return mean_of([*by_predicate.values(), *[0.0] * absent])


def times_of(chosen: Integers | None, images: int) -> Integers:
    """Returns how often each of `images` images is among the chosen ones; once if `chosen` is None."""
    return np.ones(images, np.int64) if chosen is None else np.bincount(chosen, minlength=images)


def check_test_set(predicted: Relations, truth: Relations) -> None:
    """Raises ValueError if both are not of the same images, or predictions have no scores, or scores that are NaN."""
    if predicted.images != truth.images:
        raise ValueError(f"predictions of {predicted.images} images, but ground truth of {truth.images}")
    unordered = int(np.isnan(scores_of(predicted)).sum())
    if unordered:
        raise ValueError(f"{unordered} of {len(predicted)} predictions have the score NaN, which has no rank")


def best_first(predicted: Relations, limit: int | None = None) -> Relations:
    """Sorts the predictions of each image, best first, and takes `limit` of each. Equal scores keep their order."""
    ordered = predicted.take(np.lexsort((-scores_of(predicted), predicted.image)))
    return ordered if limit is None else ordered.take(ranks_in([ordered.image]) < limit)


def mean_of(values: Iterable[float]) -> float:
    """Returns the mean of the values that are not NaN; NaN without any."""
    numbers = np.asarray([*values], np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else float("nan")


def best_entries(scores: Floats, limit: int) -> tuple[Integers, Integers]:
    """Returns rows and columns of the `limit` highest scores, best first. Ties are ordered by row, then column."""
    order = np.argsort(-scores, axis=None, kind="stable")[:limit]
    rows, columns = np.divmod(order, max(scores.shape[1], 1))
    return rows.astype(np.int64), columns.astype(np.int64)


def ranks_in(groups: Sequence[Integers], order: Sequence[NDArray[Any]] = ()) -> Integers:
    """Returns N: the rank of each item in its group, from 0. Items with equal values of all `groups` (N) are a group.

    Items are ranked by the arrays of `order` (N), the first of which counts first, and then by position.
    """
    # The last key of `lexsort` counts first, and it is stable.
    ranked = np.lexsort((*reversed(order), *reversed(groups)))
    is_first = np.zeros(len(ranked), bool)
    is_first[:1] = True
    for values in groups:
        is_first[1:] |= values[ranked][1:] != values[ranked][:-1]
    places = np.arange(len(ranked))
    found = np.empty(len(ranked), np.int64)
    found[ranked] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return found


def eleven_points(
    right: Flags, bounds: Integers, truths: Integers, weights: Integers, *, official: bool = False
) -> tuple[Floats, Floats]:
    """Returns the eleven-point average precision and the greatest recall of K categories.

    `right` marks the correct ones of R predictions, ordered by category, and best first in each; category k has those
    from `bounds[k]` to `bounds[k + 1]` (K+1), and `truths[k]` true instances. `weights` (R) says how often a prediction
    counts: the outcome is that of a list with as many copies of it.

    The average precision is the mean over recalls t of 0, 0.1, ... 1 of the greatest precision at a recall of at least
    t (Everingham et al. 2010). `official` compares with `FLOAT_THRESHOLDS`, by which a recall of exactly 3, 6 or 7
    tenths misses its threshold.
    """
    hit_places = np.flatnonzero(right)
    ranked = np.concatenate([[0], np.cumsum(weights)])
    found = np.concatenate([[0], np.cumsum(weights[hit_places])])
    starts = np.searchsorted(hit_places, bounds)
    firsts, ends = starts[:-1], starts[1:]
    category = np.repeat(np.arange(len(truths)), ends - firsts)
    hits = found[1:] - found[firsts][category]
    total = ranked[hit_places + 1] - ranked[bounds[:-1]][category]
    # Only hits matter: until the next one, precision falls and recall stays. The last element ends each range below.
    precision = np.append(hits / np.maximum(total, 1), 0.0)
    of_category = truths[category]
    recall = hits / np.maximum(of_category, 1)
    average = np.zeros(len(truths))
    for tenth in range(11):
        # In whole numbers, since tenths have no exact floats
        below = recall < FLOAT_THRESHOLDS[tenth] if official else 10 * hits < tenth * of_category
        behind = np.concatenate([[0], np.cumsum(below)])
        reached = firsts + behind[ends] - behind[firsts]
        best = np.maximum.reduceat(precision, np.stack([reached, ends], axis=1).reshape(-1))[::2]
        average += np.where(reached < ends, best, 0.0)
    return average / 11, (found[ends] - found[firsts]) / np.maximum(truths, 1)
