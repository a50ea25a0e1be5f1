"""Relation and phrase detection on Open Images V6: score_wtd of scene graph papers, and Google's challenge.

Rules of score_wtd: The 100 best relations of an image count for average precision, the 50 best for recall, except
duplicates: pairs of the same triplet that overlap, and for phrases also enclosing boxes that do. A relation is correct
if its triplet is, and both boxes overlap by at least half (+1 pixel convention); a phrase, if its triplet is and the
enclosing box does. Each truth is found once. score_wtd = 0.2 R@50 + 0.4 wmAP_rel + 0.4 wmAP_phr, where wmAP is the mean
of the predicates' AP (area under the falling envelope of precision), weighted by their numbers of truths (Zhang et al.
2019, "Graphical Contrastive Losses for Scene Graph Parsing").

Rules of the challenge (2018 and 2019): score = 0.4 mAP of relations + 0.2 Recall@50 of relations + 0.4 mAP of phrases.
AP is of a relationship type ("at", "on"), the area under the falling envelope of precision over all images. A relation
is correct if its three labels are and both boxes overlap by at least half (edges between pixels); a phrase, if its
labels are and the box around both ends does. Each truth is found once, by the first prediction that overlaps it most.
Predictions whose object classes were not verified in the image do not count: each class must occur in a true relation
of the image or be verified there; or one of them must be verified as absent, which makes it wrong. ("Open Images
Challenge 2018 Visual Relationships Detection evaluation",
storage.googleapis.com/openimages/web/vrd_detection_metric.html.)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.hico import TripletClass, without_duplicates
from pipeline.evaluation.matching import (
    MatchCandidates,
    enclosing,
    kept,
    numbered_alike,
    pair_numbers,
    phrase_candidates,
    relation_candidates,
    triplets_in_images,
)
from pipeline.evaluation.ranking import PER_IMAGE, Ranking, best_first, check_test_set, eleven_points, mean_of, places
from pipeline.evaluation.relations import Flags, Integers, Relations

RECALLED = 50
"""Number of relations per image that count for recall."""
PREDICATES_PER_PAIR = 2
"""Predicates of a pair that count where duplicates are kept."""
PHRASE_SUPPRESSION = 0.5
"""IoU above which two enclosing boxes of one triplet are duplicates."""


@dataclass(frozen=True)
class OpenImagesRules:
    """The rules of the metric, and of RLIPv2's suppression of duplicates."""

    per_image: int = PER_IMAGE
    """Number of relations per image that count for average precision, taken best first."""
    overlap: float = 0.5
    """Minimum IoU of boxes."""
    suppression: float | None = 0.7
    """Weighted overlap above which two pairs of one triplet are duplicates. None keeps duplicates, also of phrases, but
    only the two best predicates of a pair, as PySGG does, after Zhang et al."""
    official: bool = False
    """Whether to score as the evaluator of RLIPv2's authors does. There, AP is of triplets instead of predicates, by
    eleven points; wrong relations on images without truth are ignored; a phrase gets the matches of another, since
    phrases are sorted after these were looked up; and phrases' recall ignores triplets that were never predicted."""


@dataclass(frozen=True)
class DetectionScores:
    """Average precision by predicate, or by triplet in official mode. Keys are those of the truth."""

    average_precision: Mapping[Hashable, float]
    truths: Mapping[Hashable, int]
    total_recall: float
    """Share of all truths that were found."""

    @property
    def weighted_mean(self) -> float:
        """Mean AP, weighted by the numbers of truths."""
        if not self.average_precision:
            return float("nan")
        return float(np.average([*self.average_precision.values()], weights=[*self.truths.values()]))


@dataclass(frozen=True)
class OpenImagesScores:
    """Scores of the `per_image` best relations and phrases."""

    relations: DetectionScores
    phrases: DetectionScores
    recall: float
    """R@50: the share of true relations among the 50 best of their image."""

    @property
    def score_wtd(self) -> float:
        """The weighted sum that papers compare."""
        return 0.2 * self.recall + 0.4 * self.relations.weighted_mean + 0.4 * self.phrases.weighted_mean


@dataclass(frozen=True)
class OpenImagesMatches:
    """Which relations and phrases are right, of the `per_image` best, and which relations of the 50 best."""

    relations: Ranking
    phrases: Ranking
    recalled: Ranking
    """By the predicates of the truth, or by its triplets in official mode"""
    official: bool

    def scores(self, chosen: Integers | None = None) -> OpenImagesScores:
        """Returns the scores on the chosen images (positions; repeated ones count repeatedly), all by default."""
        relations, recalled = self._scores(self.relations, chosen), self._scores(self.recalled, chosen)
        phrases = self._scores(self.phrases, chosen, ignore_unpredicted=self.official)
        return OpenImagesScores(relations, phrases, recalled.total_recall)

    def _scores(self, ranking: Ranking, chosen: Integers | None, ignore_unpredicted: bool = False) -> DetectionScores:
        weights, truths = ranking.counted(chosen)
        if self.official:
            precision, _ = eleven_points(ranking.right, ranking.bounds, truths, weights, official=True)
        else:
            precision, _ = ranking.areas(chosen)
        there = np.flatnonzero(truths).tolist()
        number = np.diff(np.append(0, np.cumsum(weights))[ranking.bounds])
        total = truths[number > 0].sum() if ignore_unpredicted else truths.sum()
        return DetectionScores(
            {ranking.kinds[k]: float(precision[k]) for k in there},
            {ranking.kinds[k]: int(truths[k]) for k in there},
            float(weights[ranking.right].sum() / total) if total else float("nan"),
        )


def match_open_images(
    predicted: Relations, truth: Relations, rules: OpenImagesRules | None = None
) -> OpenImagesMatches:
    """Decides which relations and phrases are right. Raises ValueError as `check_test_set` does."""
    rules = rules or OpenImagesRules()
    check_test_set(predicted, truth)
    counted = predicted
    if rules.suppression is None and not rules.official:
        every = best_first(predicted)
        counted = every.take(places(pair_numbers(every)) < PREDICATES_PER_PAIR)
    ranked, best = (
        without_duplicates(best_first(counted, limit), rules.suppression) for limit in (rules.per_image, RECALLED)
    )
    recalled = _relations(best, truth, rules)
    relations, phrases = _relations(ranked, truth, rules), _phrases(ranked, truth, rules)
    return OpenImagesMatches(relations, phrases, recalled, rules.official)


def _relations(ranked: Relations, truth: Relations, rules: OpenImagesRules) -> Ranking:
    found = relation_candidates(ranked, truth, rules.overlap).first_finds(len(ranked))
    counted = np.isin(ranked.image, truth.image) if rules.official else np.ones(len(ranked), bool)
    return _ranking(ranked.take(counted), found[counted], truth, rules)


def _phrases(ranked: Relations, truth: Relations, rules: OpenImagesRules) -> Ranking:
    if rules.suppression is not None:
        ranked = ranked.take(kept(triplets_in_images(ranked), [enclosing(ranked)], [1.0], PHRASE_SUPPRESSION))
    candidates = phrase_candidates(ranked, truth, rules.overlap)
    if rules.official and rules.suppression is not None:
        candidates = _misplaced(candidates, ranked, truth)
    return _ranking(ranked, candidates.first_finds(len(ranked)), truth, rules)


def _ranking(predicted: Relations, right: Flags, truth: Relations, rules: OpenImagesRules) -> Ranking:
    if not rules.official:
        return Ranking.of(predicted, right, predicted.predicates, truth, truth.predicates)
    labels, true_labels = numbered_alike([*predicted.triplets.T], [*truth.triplets.T])
    kinds = [TripletClass(*row) for row in np.unique(truth.triplets, axis=0).tolist()]
    return replace(Ranking.of(predicted, right, labels, truth, true_labels), kinds=kinds)


def _misplaced(candidates: MatchCandidates, phrases: Relations, truth: Relations) -> MatchCandidates:
    """Gives each phrase the candidates of the phrase that stood at its place before phrases were sorted by score.

    There, the triplets of an image follow one another by their best scores, each with all its phrases. Phrases whose
    triplet no image has are skipped and find nothing.
    """
    _, first, kind = np.unique(triplets_in_images(phrases), return_index=True, return_inverse=True)
    before = np.lexsort((np.arange(len(phrases)), first[kind], phrases.image))
    now = np.empty(len(phrases), np.int64)
    now[before] = np.arange(len(phrases))
    moved = now[candidates.prediction]
    order = np.lexsort((candidates.truth, moved))
    wrong = MatchCandidates(moved[order], candidates.truth[order], candidates.overlap[order])
    known = np.isin(*numbered_alike([*phrases.triplets.T], [*truth.triplets.T]))
    return wrong.take(known[wrong.prediction])


@dataclass(frozen=True)
class ChallengeScores:
    """AP by relationship type (NaN without a truth), for relations and for phrases, and recall of relations."""

    relations: Mapping[int, float]
    phrases: Mapping[int, float]
    recall: float
    weighted_relations: float
    weighted_phrases: float
    """Google's weightedAP: the AP of all relations (or phrases) in one ranking, whatever their types."""

    @property
    def score(self) -> float:
        """The weighted sum that ranks entries of the challenge."""
        relations, phrases = (mean_of(each.values()) for each in (self.relations, self.phrases))
        return 0.4 * relations + 0.2 * self.recall + 0.4 * phrases


@dataclass(frozen=True)
class ChallengeMatches:
    """Which relations and phrases are right."""

    relations: Ranking
    phrases: Ranking
    """By relationship type"""
    all_relations: Ranking
    all_phrases: Ranking
    """In one ranking"""
    recalled: Ranking
    """The 50 best relations of each image in one ranking"""

    def scores(self, chosen: Integers | None = None) -> ChallengeScores:
        """Returns the scores on the chosen images (positions; repeated ones count repeatedly), all by default."""
        return ChallengeScores(
            relations=self.relations.precision(chosen),
            phrases=self.phrases.precision(chosen),
            recall=mean_of(self.recalled.areas(chosen)[1]),
            weighted_relations=mean_of(self.all_relations.areas(chosen)[0]),
            weighted_phrases=mean_of(self.all_phrases.areas(chosen)[0]),
        )


def match_challenge(predicted: Relations, truth: Relations, verified: Integers | None = None) -> ChallengeMatches:
    """Decides which relations and phrases are right. Raises ValueError as `check_test_set` does.

    `verified` are M×2 image-level labels, positive or negative: position of the image, and object class.
    """
    check_test_set(predicted, truth)
    labels = np.zeros((0, 2), np.int64) if verified is None else verified.reshape(-1, 2)
    ranked = best_first(predicted.take(_judged(predicted, truth, labels)))
    right = relation_candidates(ranked, truth, 0.5, pixel=0.0).first_finds(len(ranked))
    right_phrases = phrase_candidates(ranked, truth, 0.5, pixel=0.0).first_finds(len(ranked))
    best = places(ranked.image) < RECALLED
    one, true_one = np.zeros(len(ranked), np.int64), np.zeros(len(truth), np.int64)
    return ChallengeMatches(
        Ranking.of(ranked, right, ranked.predicates, truth, truth.predicates),
        Ranking.of(ranked, right_phrases, ranked.predicates, truth, truth.predicates),
        Ranking.of(ranked, right, one, truth, true_one),
        Ranking.of(ranked, right_phrases, one, truth, true_one),
        Ranking.of(ranked.take(best), right[best], one[best], truth, true_one),
    )


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
