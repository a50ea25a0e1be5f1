"""Recall of scene graphs as on Visual Genome: R@K, mR@K, ng-R@K and zero-shot R@K.

Rules: R@K is the share of an image's true relations among its K best predictions, averaged over images with any. mR@K
is the same of each predicate, averaged over images with it, then over predicates. Zero-shot R@K counts only true
triplets that the training lacks. A relation is found if its three labels agree and both boxes overlap by at least half
(+1 pixel convention). With the graph constraint, a pair of objects has its best predicate; ng-R@K ranks all. If the
truth has masks, the IoU is theirs, in pixels, as in PSG's evaluator (Yang et al. 2022, OpenPSG's `sgg_metrics.py`).

PredCls, SGCls and SGDet are not metrics but what the network was given: boxes and labels, boxes, or nothing. Sources:
Xu et al. 2017 (R@K), Newell and Deng 2017 (ng-R@K), Chen et al. 2019 and Tang et al. 2019 (mR@K). Lorenz et al. 2024,
"A Fair Ranking and New Model for Panoptic Scene Graph Generation", show that recall rewards a network for finding an
object several times, each time with another predicate. So, unless `official`, overlapping boxes of one label are one
object, an object's pair has one predicate, and a prediction finds one truth at most. A relation that the truth lists
twice then counts once, since nothing could find it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluation.matching import mask_candidates, numbered, pair_numbers, unseen_triplets
from pipeline.evaluation.ranking import GroupRecall, RecallMatches, best_first, check_test_set, ranks_in
from pipeline.evaluation.relations import Flags, Integers, Relations, scores_of


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
    """Whether duplicates count, as in the evaluators of Neural Motifs and successors: each box is its own object, and a
    prediction finds every truth it overlaps. With masks, a repeated relation counts once, as in PSG's evaluator."""
    predicates: int | None = None
    """Number of predicates that mean recall divides by, so that predicates absent from the truth count as 0, as in the
    evaluator of Tang et al. None leaves them out."""


def counted_truth(truth: Relations, rules: SceneGraphRules) -> Relations:
    """The relations without those that repeat boxes and predicate of an earlier one, which only the official
    evaluators that use boxes count."""
    if rules.official and truth.masks is None:
        return truth
    listed = numbered([pair_numbers(truth), truth.predicates])
    return truth.take(np.sort(np.unique(listed, return_index=True)[1]))


def match_scene_graphs(
    predicted: Relations, truth: Relations, rules: SceneGraphRules | None = None, seen: Integers | None = None
) -> RecallMatches:
    """Decides which truths are found by the best predictions of their image, with the graph constraint and without.

    `seen` are M×3 triplets of the training set (subject label, object label, predicate). zR and ng-zR are NaN unless
    they are given and some true triplet is not among them. Raises ValueError as `check_test_set` does, and if the truth
    alone has masks.
    """
    rules = rules or SceneGraphRules()
    check_test_set(predicted, truth)
    if truth.masks is not None and rules.official:  # PSG's evaluator skips images without predictions
        truth = truth.take(np.isin(truth.image, predicted.image))
    truth = counted_truth(truth, rules)
    # By truth, with the graph constraint and without: the place of the prediction that finds it, or a place after all
    found = np.full((2, len(truth)), np.iinfo(np.int64).max)
    if truth.masks is None:
        _find(predicted, truth, rules, found, np.zeros(len(predicted), bool))
    else:
        _find_masks(predicted, truth, rules, found)
    # Ascending by predicate, then by image.
    groups = numbered([truth.predicates, truth.image])
    new = unseen_triplets(truth, seen)
    unseen = truth.take(new)

    def share(of: Relations, groups: Integers, found_at: Integers) -> GroupRecall:
        return GroupRecall.of(of, groups, found_at, rules.limits)

    shares = {
        "R": share(truth, truth.image, found[0]),
        "mR": share(truth, groups, found[0]),
        "ng-R": share(truth, truth.image, found[1]),
        "ng-mR": share(truth, groups, found[1]),
        "zR": share(unseen, unseen.image, found[0, new]),
        "ng-zR": share(unseen, unseen.image, found[1, new]),
    }
    return RecallMatches(shares, "mR", ("mR", "ng-mR"), rules.predicates)


def _find_masks(predicted: Relations, truth: Relations, rules: SceneGraphRules, found: Integers) -> None:
    """As `_find`, by masks, which are far fewer than boxes of Visual Genome."""
    ranked = best_first(predicted)
    things = _things(ranked, None if rules.official else rules.same_object)
    for kind, of_pair in enumerate(([], [ranked.predicates])):
        counted = np.sort(np.unique(numbered([ranked.image, *things, *of_pair]), return_index=True)[1])
        place = ranks_in([ranked.image[counted]])
        within = place < max(rules.limits)
        pairs = mask_candidates(ranked.take(counted[within]), truth, rules.overlap)
        if not rules.official:
            pairs = pairs.assigned()
        np.minimum.at(found[kind], pairs.truth, place[within][pairs.prediction])


def _things(ranked: Relations, same: float | None) -> Integers:
    """Returns 2×N: the number of the object that the subject and the object of each relation, best first, show.

    Masks of an image and a label whose IoU exceeds `same` show one object, the best of them.
    """
    from pycocotools.mask import iou

    if ranked.masks is None:
        raise ValueError("the ground truth has masks, the detections have none; add their column `masks`")
    things = np.full((2, len(ranked)), -1)
    labels = (ranked.subject_labels, ranked.object_labels)
    shown: dict[int, int] = {}
    best: dict[tuple[int, int], dict[int, Any]] = {}
    for place, end in np.ndindex(ranked.masks.shape):
        mask = ranked.masks[place, end]
        if id(mask) not in shown:  # a box has one mask, so that each mask is a box's, whatever its pixels
            others = best.setdefault((int(ranked.image[place]), int(labels[end][place])), {})
            number = len(shown)
            if others and same is not None:
                near = iou([mask], [*others.values()], [False] * len(others))[0] > same
                number = [*others][near.argmax()] if near.any() else number
            others.setdefault(number, mask)
            shown[id(mask)] = number
        things[end, place] = shown[id(mask)]
    return things


def that_count(predicted: Relations) -> Flags:
    """Marks the predictions that can count for a figure of Visual Genome or VRD, some hundreds of an image at most."""
    used = np.zeros(len(predicted), bool)
    truth = predicted.take(np.zeros(0, np.int64))
    for rules in (SceneGraphRules(), SceneGraphRules(same_object=None), SceneGraphRules(official=True)):
        _find(predicted, truth, rules, np.zeros((2, 0), np.int64), used)
    return used


def _find(predicted: Relations, truth: Relations, rules: SceneGraphRules, found: Integers, used: Flags) -> None:
    from pipeline.evaluation.loops import find_in_graphs  # Numba takes half a second to load

    same = np.inf if rules.official or rules.same_object is None else rules.same_object
    bounds = [np.searchsorted(each.image, np.arange(each.images + 1)) for each in (predicted, truth)]
    # Numba would compile the loop again for arrays of another kind.
    columns, true_columns = (
        (
            *(np.ascontiguousarray(boxes, np.float64) for boxes in (each.subject_boxes, each.object_boxes)),
            *(np.ascontiguousarray(c, np.int64) for c in (each.subject_labels, each.object_labels, each.predicates)),
        )
        for each in (predicted, truth)
    )
    find_in_graphs(
        *(bounds[0], np.ascontiguousarray(scores_of(predicted), np.float64), *columns, bounds[1], *true_columns),
        *(rules.overlap, same, rules.official, max(rules.limits), int(np.diff(bounds[0]).max(initial=0)), found, used),
    )
