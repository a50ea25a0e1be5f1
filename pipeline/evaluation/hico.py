"""Mean average precision of HICO-DET (Chao et al. 2018), as RLIPv2's and QPIC's evaluators compute it.

Rules: The 100 best interactions per image count, except duplicates, which pairwise suppression within equal triplets
removes. A prediction looks for the true interaction with the same three labels whose less overlapping box overlaps it
most; both must overlap by at least half (+1 pixel convention). It is correct if no better prediction found that one.
The score is the mean 11-point average precision over the true triplets.

Equal scores are taken by ascending image, and within an image in the order of the predictions given.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.matching import kept, triplets_in_images
from pipeline.evaluation.ranking import PER_IMAGE, Ranking, best_first, check_test_set, eleven_points, mean_of
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, scores_of

POWERS = (1.0, 0.5)
"""The weighted overlap of duplicates is IoU_subject ** POWERS[0] * IoU_object ** POWERS[1]."""
_TABLE = 2**24
"""Maximum number of combinations of labels for which a table is made; it is quicker than a search."""


class TripletClass(NamedTuple):
    """The labels of an interaction, as indices into the names of the test set."""

    subject: int
    object: int
    predicate: int


@dataclass(frozen=True, kw_only=True)
class HicoRules:
    """The rules that the public evaluators fix, and where the authors' own differs."""

    per_image: int = PER_IMAGE
    """Number of interactions per image that count, taken best first."""
    overlap: float = 0.5
    """Minimum IoU of both boxes."""
    suppression: float | None = 0.7
    """Weighted overlap above which two pairs of one triplet are duplicates. None keeps duplicates."""
    validity: NDArray[np.number] | None = None
    """Predicates × objects: a factor of each score, 1 where the dataset lists the combination and else 0 (the authors'
    corre_hico.npy). It is applied before the best of an image are taken."""
    known_object: bool = False
    """Known Object setting: score a triplet only on images whose truth holds its object category, instead of on all
    (Default setting). Follows the dataset's Matlab code, as GGNet's evaluator does; RLIPv2's and QPIC's lack it."""
    official: bool = False
    """Reproduces two bugs of the authors' evaluator: predictions on images without truth are ignored, and recalls of
    exactly 3, 6 and 7 tenths miss their thresholds (`ranking.FLOAT_THRESHOLDS`). The authors' code has no value for
    images with truth and without any prediction, where it stops with an error: they count as not found, here too."""


@dataclass(frozen=True)
class HicoScores:
    """Average precision and maximum recall per triplet of the ground truth."""

    average_precision: Mapping[TripletClass, float]
    recall: Mapping[TripletClass, float]
    truths: Mapping[TripletClass, int] = field(default_factory=dict)
    """Number of true interactions in the test set, per triplet."""

    def mean(self, triplets: Iterable[TripletClass] | None = None) -> float:
        """Mean AP over all triplets, or over those of `triplets` in the ground truth. NaN if there are none."""
        chosen = self.average_precision.keys() if triplets is None else set(triplets) & self.average_precision.keys()
        return mean_of(self.average_precision[t] for t in sorted(chosen))

    def apart(self, triplets: Collection[TripletClass]) -> tuple[float, float]:
        """Mean AP of these triplets and of all others. NaN where the ground truth has none."""
        return self.mean(triplets), self.mean(self.average_precision.keys() - set(triplets))

    @property
    def mean_recall(self) -> float:
        """Mean over triplets of the maximum recall."""
        return mean_of(self.recall.values())


@dataclass(frozen=True)
class HicoMatches(Ranking):
    """The predictions that count, and the true interactions, of K triplets, which are those of the truth, ascending."""

    kinds: Sequence[TripletClass]
    position: Integers
    """R: each prediction's position in the relations that were given."""
    official: bool

    def scores(self, chosen: Integers | None = None) -> HicoScores:
        """Returns the scores on the chosen images (positions; repeated ones count repeatedly), all by default."""
        weights, truths = self.counted(chosen)
        precision, recall = eleven_points(self.right, self.bounds, truths, weights, official=self.official)
        there = np.flatnonzero(truths).tolist()
        return HicoScores(
            {self.kinds[k]: float(precision[k]) for k in there},
            {self.kinds[k]: float(recall[k]) for k in there},
            {self.kinds[k]: int(truths[k]) for k in there},
        )


def match_hico(predicted: Relations, truth: Relations, rules: HicoRules | None = None) -> HicoMatches:
    """Decides which predictions count, and which of those are right.

    Raises ValueError as `check_test_set` does.
    """
    from pipeline.evaluation.loops import find, sort_by_digits  # Numba takes half a second to load

    rules = rules or HicoRules()
    check_test_set(predicted, truth)
    kinds, number, true_number = _numbered(predicted, truth)
    # By digits, which takes less time than comparisons
    ranked = sort_by_digits(_descending(_scores(predicted, rules)), np.arange(len(predicted)))
    order = ranked[_stable(predicted.image[ranked])]
    bounds = np.searchsorted(predicted.image, np.arange(predicted.images + 1))
    # Other triplets than those of the truth count among the best of an image, and for nothing else.
    counted = number < len(kinds)
    if rules.official:
        counted &= np.isin(predicted.image, truth.image)
    if rules.known_object:
        counted &= _has_object(predicted, truth)
    counted[order[np.arange(len(order)) - bounds[predicted.image[order]] >= rules.per_image]] = False
    order = order[counted[order]]
    outcome = np.zeros(len(predicted), np.int8)
    find(
        *(order, np.searchsorted(predicted.image[order], np.arange(predicted.images + 1)), number),
        *(np.ascontiguousarray(each, np.float64) for each in (predicted.subject_boxes, predicted.object_boxes)),
        *(np.searchsorted(truth.image, np.arange(truth.images + 1)), true_number),
        *(np.ascontiguousarray(each, np.float64) for each in (truth.subject_boxes, truth.object_boxes)),
        *(np.array(POWERS), np.inf if rules.suppression is None else rules.suppression),
        *(rules.overlap, outcome),
    )
    ranked = ranked[outcome[ranked] > 0]
    ranked = ranked[_stable(number[ranked])]
    return HicoMatches(
        kinds=tuple(TripletClass(*kind) for kind in kinds.tolist()),
        images=truth.images,
        bounds=np.searchsorted(number[ranked], np.arange(len(kinds) + 1)),
        position=ranked,
        image=predicted.image[ranked],
        right=outcome[ranked] == 2,
        truth=true_number,
        truth_image=truth.image,
        official=rules.official,
    )


def counted(predicted: Relations, rules: HicoRules) -> Relations:
    """The predictions that count, the best of each image first, with the scores they count with.

    The rules leave out those over the limit, duplicates of better ones, and combinations that are not valid.
    """
    scored = replace(predicted, scores=_scores(predicted, rules))
    if rules.validity is not None:
        scored = scored.take(scores_of(scored) > 0)
    return without_duplicates(best_first(scored, rules.per_image), rules.suppression)


def without_duplicates(ranked: Relations, suppression: float | None) -> Relations:
    """Suppresses pairs that a better one of the same triplet overlaps by more than `suppression`; None keeps all."""
    if suppression is None:
        return ranked
    return ranked.take(
        kept(triplets_in_images(ranked), [ranked.subject_boxes, ranked.object_boxes], POWERS, suppression)
    )


def _scores(predicted: Relations, rules: HicoRules) -> Floats:
    scores = scores_of(predicted)
    if rules.validity is None or not len(scores):
        return scores
    factors = rules.validity[predicted.predicates, predicted.object_labels]
    # An interaction without an object (-1) is not a combination, so the table says nothing about it.
    return np.asarray(scores * np.where(predicted.object_labels < 0, 1, factors))


def _has_object(predicted: Relations, truth: Relations) -> Flags:
    """Marks predictions on images whose truth holds the object category predicted."""
    width = int(max(predicted.object_labels.max(initial=0), truth.object_labels.max(initial=0))) + 2
    # One more than the label: -1, no object, would be the last object of the image before.
    objects, known = (each.image * width + each.object_labels + 1 for each in (predicted, truth))
    return np.isin(objects, known)


def _descending(scores: Floats) -> NDArray[np.uint64]:
    """Returns numbers that are ordered as the scores are from the best on."""
    bits = (scores + 0.0).view(np.int64)  # zeros have one form
    return np.where(bits < 0, bits, bits ^ np.iinfo(np.int64).max).view(np.uint64)


def _stable(keys: Integers) -> Integers:
    """Returns the order that sorts keys of at least 0, which keeps equal ones in theirs."""
    # NumPy sorts integers of 16 bits by digits, in a fifth of the time.
    return np.argsort(keys.astype(np.min_scalar_type(int(keys.max(initial=0)))), kind="stable")


def _numbered(predicted: Relations, truth: Relations) -> tuple[Integers, Integers, Integers]:
    """Returns the K different triplets of the truth, ascending, and each prediction's and truth's number among them.

    A prediction of another triplet has the number K.
    """
    # The truth's labels start at -1, no object. Those beyond are clipped to the edges, where it has none.
    sizes = (truth.triplets.max(axis=0, initial=-1) + 4).tolist()
    keys, true_keys = (
        np.ravel_multi_index((each.subject_labels + 2, each.object_labels + 2, each.predicates + 2), sizes, mode="clip")
        for each in (predicted, truth)
    )
    kinds, true_number = np.unique(true_keys, return_inverse=True)
    if math.prod(sizes) <= _TABLE:
        numbers = np.full(math.prod(sizes), len(kinds))
        numbers[kinds] = np.arange(len(kinds))
        number = numbers[keys]
    else:
        number = np.searchsorted(kinds, keys)
        number[np.append(kinds, -1)[number] != keys] = len(kinds)
    return np.stack(np.unravel_index(kinds, sizes), axis=1) - 2, number, true_number
