"""The score of Google's Open Images challenge on visual relationships (2018 and 2019).

Rules: score = 0.4 mAP of relations + 0.2 Recall@50 of relations + 0.4 mAP of phrases. AP is of a relationship type ("at",
"on"), the area under the falling envelope of precision over all images. A relation is correct if its three labels are and
both boxes overlap by at least half (edges between pixels); a phrase, if its labels are and the box around both ends does.
Each truth is found once, by the first prediction that overlaps it most. Predictions whose object classes nobody checked in
the image do not count: each class must occur in a true relation of the image or be verified there; or one of them must be
verified as absent, which makes it wrong. ("Open Images Challenge 2018 Visual Relationships Detection evaluation",
storage.googleapis.com/openimages/web/vrd_detection_metric.html.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.interactions import Integers
from pipeline.evaluation.matching import Flags, numbered_alike, phrase_candidates, relation_candidates
from pipeline.evaluation.ranking import area_under_precision, best_first, check_test_set, places, scores_of
from pipeline.evaluation.relations import Relations


@dataclass(frozen=True)
class ChallengeRules:
    """The rules that the challenge fixes."""

    recalled: int = 50
    """Number of relations per image that count for recall, taken best first."""
    overlap: float = 0.5
    """Minimum IoU of boxes."""


@dataclass(frozen=True)
class ChallengeScores:
    """AP by relationship type, for relations and for phrases, and recall of relations."""

    relations: Mapping[int, float]
    phrases: Mapping[int, float]
    recall: float

    @property
    def relation_map(self) -> float:
        """Mean AP of relations over the relationship types of the truth."""
        return float(np.mean([*self.relations.values()])) if self.relations else float("nan")

    @property
    def phrase_map(self) -> float:
        """Mean AP of phrases over the relationship types of the truth."""
        return float(np.mean([*self.phrases.values()])) if self.phrases else float("nan")

    @property
    def score(self) -> float:
        """The weighted sum that ranks entries of the challenge."""
        return 0.4 * self.relation_map + 0.2 * self.recall + 0.4 * self.phrase_map


def score_open_images_challenge(
    predicted: Relations, truth: Relations, rules: ChallengeRules | None = None, verified: Integers | None = None
) -> ChallengeScores:
    """Scores relations against the truth of the same images. Raises ValueError as `check_test_set` does.

    `verified` are M×2 image-level labels, positive or negative: position of the image, and object class. An attribute
    ("bench is wooden") has the box and the label of its subject twice, or NaN for the object's box.
    """
    rules = rules or ChallengeRules()
    check_test_set(predicted, truth)
    predicted, truth = _with_boxes(predicted), _with_boxes(truth)
    labels = np.zeros((0, 2), np.int64) if verified is None else verified.reshape(-1, 2)
    ranked = best_first(predicted.take(_judged(predicted, truth, labels)))
    right = relation_candidates(ranked, truth, rules.overlap, pixel=0.0).first_finds(len(ranked))
    right_phrases = phrase_candidates(ranked, truth, rules.overlap, pixel=0.0).first_finds(len(ranked))
    recalled = int(right[places(ranked.image) < rules.recalled].sum())
    return ChallengeScores(
        _precision(ranked, right, truth),
        _precision(ranked, right_phrases, truth),
        recalled / len(truth) if len(truth) else float("nan"),
    )


def _with_boxes(relations: Relations) -> Relations:
    without = np.isnan(relations.object_boxes).any(axis=1, keepdims=True)
    return replace(relations, object_boxes=np.where(without, relations.subject_boxes, relations.object_boxes))


def _judged(predicted: Relations, truth: Relations, verified: Integers) -> Flags:
    """Returns which predictions count in their image."""
    ends = [np.concatenate([r.subject_labels, r.object_labels]) for r in (predicted, truth)]
    images = [np.concatenate([r.image, r.image]) for r in (predicted, truth)]
    asked, known = numbered_alike(
        [images[0], ends[0]], [np.concatenate([images[1], verified[:, 0]]), np.concatenate([ends[1], verified[:, 1]])]
    )
    positive, checked = known[: 2 * len(truth)], known[2 * len(truth) :]
    is_known = np.isin(asked, known).reshape(2, -1)
    is_absent = np.isin(asked, np.setdiff1d(checked, positive)).reshape(2, -1)
    return np.asarray(is_known.all(axis=0) | is_absent.any(axis=0))


def _precision(ranked: Relations, right: Flags, truth: Relations) -> dict[int, float]:
    order = np.lexsort((-scores_of(ranked), ranked.predicates))
    predicates, right = ranked.predicates[order], right[order]
    return {
        int(kind): area_under_precision(right[slice(*np.searchsorted(predicates, [kind, kind + 1]))], int(count))
        for kind, count in zip(*np.unique(truth.predicates, return_counts=True), strict=True)
    }
