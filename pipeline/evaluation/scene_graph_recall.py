"""Recall of scene graphs as on Visual Genome: R@K, mR@K, ng-R@K and zero-shot R@K.

Rules: R@K is the share of an image's true relations among its K best predictions, averaged over images that have any.
mR@K is the same of each predicate, averaged over images that have it, then over predicates. Zero-shot R@K counts only
true triplets that the training set lacks. A relation is found if its three labels agree and both boxes overlap by at
least half (+1 pixel convention). With the graph constraint, a pair of objects has one predicate, its best; ng-R@K ranks
all.

PredCls, SGCls and SGDet are not metrics but what the network was given: boxes and labels, boxes, or nothing. Sources:
Xu et al. 2017 (R@K), Newell and Deng 2017 (ng-R@K), Chen et al. 2019 and Tang et al. 2019 (mR@K). Lorenz et al. 2024,
"A Fair Ranking and New Model for Panoptic Scene Graph Generation", show that recall rewards a network for finding an
object several times, each time with another predicate. So, unless `official`, overlapping boxes of one label are one
object, an object's pair has one predicate, and a prediction finds one truth at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.matching import (
    numbered,
    pair_numbers,
    relation_candidates,
    representatives,
    unseen_triplets,
)
from pipeline.evaluation.ranking import best_first, check_test_set, mean_of, places
from pipeline.evaluation.relations import Floats, Integers, Relations, scores_of


@dataclass(frozen=True)
class SceneGraphRules:
    """The rules of the metrics."""

    limits: tuple[int, ...] = (20, 50, 100)
    """The K of R@K."""
    overlap: float = 0.5
    """Minimum IoU of both boxes."""
    same_object: float | None = 0.5
    """IoU above which two predicted boxes of a label are one object. None where boxes were given (PredCls, SGCls)."""
    official: bool = False
    """Whether duplicates count, as in the evaluators of Neural Motifs and its successors: each box is an object of its
    own, and a prediction finds every truth that it overlaps."""
    predicates: int | None = None
    """Number of predicates that mean recall divides by, so that predicates absent from the truth count as 0, as in the
    evaluator of Tang et al. None leaves them out."""


@dataclass(frozen=True)
class SceneGraphScores:
    """Recall by K. `zero_shot` is NaN unless training triplets were given and some true triplet is not among them."""

    recall: Mapping[int, float]
    mean_recall: Mapping[int, float]
    unconstrained: Mapping[int, float]
    """ng-R@K"""
    unconstrained_mean: Mapping[int, float]
    """ng-mR@K"""
    zero_shot: Mapping[int, float]
    unconstrained_zero_shot: Mapping[int, float]
    by_predicate: Mapping[int, Mapping[int, float]]
    """K → predicate → recall with the graph constraint."""


def score_scene_graphs(
    predicted: Relations, truth: Relations, rules: SceneGraphRules | None = None, seen: Integers | None = None
) -> SceneGraphScores:
    """Scores relations against the truth of the same images. Raises ValueError as `check_test_set` does.

    `seen` are M×3 triplets of the training set (subject label, object label, predicate).
    """
    rules = rules or SceneGraphRules()
    check_test_set(predicted, truth)
    ranked = best_first(predicted)
    if not rules.official:
        ranked = _single_objects(ranked, rules.same_object)
    pairs = pair_numbers(ranked)
    new = unseen_triplets(truth, seen)
    constrained = ranked.take(places(pairs) == 0)
    free = ranked if rules.official else ranked.take(places(numbered([pairs, ranked.predicates])) == 0)
    with_constraint, without = (_found_at(each, truth, rules) for each in (constrained, free))
    by_predicate = {k: _by_predicate(with_constraint, truth, k) for k in rules.limits}
    return SceneGraphScores(
        recall={k: _recall(with_constraint, truth, k) for k in rules.limits},
        mean_recall={k: _mean(by_predicate[k], rules) for k in rules.limits},
        unconstrained={k: _recall(without, truth, k) for k in rules.limits},
        unconstrained_mean={k: _mean(_by_predicate(without, truth, k), rules) for k in rules.limits},
        zero_shot={k: _recall(with_constraint[new], truth.take(new), k) for k in rules.limits},
        unconstrained_zero_shot={k: _recall(without[new], truth.take(new), k) for k in rules.limits},
        by_predicate=by_predicate,
    )


def _mean(by_predicate: Mapping[int, float], rules: SceneGraphRules) -> float:
    absent = 0 if rules.predicates is None else rules.predicates - len(by_predicate)
    return mean_of([*by_predicate.values(), *[0.0] * absent])


def _found_at(ranked: Relations, truth: Relations, rules: SceneGraphRules) -> Integers:
    """Returns T: the place of the prediction of its image that finds each truth, or a place after all."""
    place = places(ranked.image)
    within = place < max(rules.limits)
    ranked, place = ranked.take(within), place[within]
    candidates = relation_candidates(ranked, truth, rules.overlap)
    if not rules.official:
        candidates = candidates.assigned()
    found = np.full(len(truth), np.iinfo(np.int64).max)
    np.minimum.at(found, candidates.truth, place[candidates.prediction])
    return found


def _recall(found: Integers, truth: Relations, limit: int) -> float:
    """Returns the mean over images of the share of truths found by the `limit` best predictions."""
    return mean_of(_shares(truth.image, found < limit))


def _by_predicate(found: Integers, truth: Relations, limit: int) -> dict[int, float]:
    groups = numbered([truth.predicates, truth.image])
    # Groups ascend by predicate, so that the first truth of each states whose it is.
    _, first = np.unique(groups, return_index=True)
    shares, predicates = _shares(groups, found < limit), truth.predicates[first]
    return {int(each): mean_of(shares[predicates == each]) for each in np.unique(predicates)}


def _shares(groups: Integers, found: np.ndarray) -> Floats:
    """Returns the share of found truths of each group, by ascending group."""
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(place, weights=found, minlength=len(counts)) / counts)


def _single_objects(ranked: Relations, same_object: float | None) -> Relations:
    """Replaces each box by the best-scored box of the object that it shows, so that equal pairs have equal boxes."""
    if same_object is None:
        return ranked
    count = len(ranked)
    images = np.concatenate([ranked.image, ranked.image])
    labels = np.concatenate([ranked.subject_labels, ranked.object_labels])
    boxes = np.concatenate([ranked.subject_boxes, ranked.object_boxes])
    scores = np.concatenate([scores_of(ranked), scores_of(ranked)])
    kinds = numbered([images, labels])
    bits = (boxes + 0.0).astype(np.float64).view(np.int64)
    order = np.argsort(-scores, kind="stable")
    _, first, node = np.unique(numbered([kinds, *bits.T])[order], return_index=True, return_inverse=True)
    # A node is a distinct box; nodes are compared best first.
    ranks = np.argsort(first)
    chosen = order[first[ranks]]
    representative = representatives(kinds[chosen], [boxes[chosen]], [1.0], same_object)
    rank_of = np.empty(len(ranks), np.int64)
    rank_of[ranks] = np.arange(len(ranks))
    shown = np.empty(2 * count, np.int64)
    shown[order] = chosen[representative[rank_of[node]]]
    return replace(ranked, subject_boxes=boxes[shown[:count]], object_boxes=boxes[shown[count:]])
