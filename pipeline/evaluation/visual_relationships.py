"""Recall on VRD, as Lu et al. (2016, "Visual Relationship Detection with Language Priors") and later works report it.

Rules: Of each pair of boxes, the k best predicates count (1 in Lu et al.; 70, all there are, in Yu et al. 2017). R@K is
the share of all true relations of the test set that the K best predictions of their images find. A relation is found if
its three labels agree and both boxes overlap by at least half; a phrase, if the labels agree and the box around both
does (+1 pixel convention). A prediction takes the truth that it overlaps most of those not yet found. Predicate
detection is the recall of relations where boxes and labels were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.matching import (
    Candidates,
    pair_numbers,
    phrase_candidates,
    relation_candidates,
    unseen_triplets,
)
from pipeline.evaluation.ranking import best_first, check_test_set, places
from pipeline.evaluation.relations import Integers, Relations


@dataclass(frozen=True)
class VrdRules:
    """The rules of the metric."""

    limits: tuple[int, ...] = (50, 100)
    """The K of R@K."""
    predicates_per_pair: int | None = 1
    """The k: how many predicates of a pair count. None counts all."""
    overlap: float = 0.5
    """Minimum IoU of boxes."""


@dataclass(frozen=True)
class VrdScores:
    """Recall by K. Values of `zero_shot` are of true triplets that the training set lacks; NaN unless there are any."""

    relations: Mapping[int, float]
    phrases: Mapping[int, float]
    zero_shot_relations: Mapping[int, float]
    zero_shot_phrases: Mapping[int, float]
    by_predicate: Mapping[int, float]
    """Predicate → recall of its relations at the greatest K"""


def score_vrd(
    predicted: Relations, truth: Relations, rules: VrdRules | None = None, seen: Integers | None = None
) -> VrdScores:
    """Scores relations against the truth of the same images. Raises ValueError as `check_test_set` does.

    `seen` are M×3 triplets of the training set (subject label, object label, predicate).
    """
    rules = rules or VrdRules()
    check_test_set(predicted, truth)
    ranked = best_first(predicted)
    if rules.predicates_per_pair is not None:
        ranked = ranked.take(places(pair_numbers(ranked)) < rules.predicates_per_pair)
    place = places(ranked.image)
    within = place < max(rules.limits)
    ranked, place = ranked.take(within), place[within]
    relations = _found_at(relation_candidates(ranked, truth, rules.overlap), place, len(truth))
    phrases = _found_at(phrase_candidates(ranked, truth, rules.overlap), place, len(truth))
    new = unseen_triplets(truth, seen)
    return VrdScores(
        relations=_recall(relations, rules.limits),
        phrases=_recall(phrases, rules.limits),
        zero_shot_relations=_recall(relations[new], rules.limits),
        zero_shot_phrases=_recall(phrases[new], rules.limits),
        by_predicate={
            int(each): float((relations[truth.predicates == each] < max(rules.limits)).mean())
            for each in np.unique(truth.predicates)
        },
    )


def _found_at(candidates: Candidates, place: Integers, truths: int) -> Integers:
    """Returns T: the place of the prediction of its image that finds each truth, or a place after all."""
    assigned = candidates.assigned()
    found = np.full(truths, np.iinfo(np.int64).max)
    found[assigned.truth] = place[assigned.prediction]
    return found


def _recall(found: Integers, limits: tuple[int, ...]) -> dict[int, float]:
    return {limit: float((found < limit).mean()) if len(found) else float("nan") for limit in limits}
