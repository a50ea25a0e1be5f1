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
from pipeline.evaluation.ranking import PER_IMAGE, Ranking, best_first, check_test_set, eleven_points, mean_of, ranks_in
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations

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
    eleven points; wrong relations on images without truth are ignored; and a phrase gets the matches of another, since
    phrases are sorted after these were looked up."""

    @property
    def two_per_pair(self) -> bool:
        """Whether only the `PREDICATES_PER_PAIR` best predicates of a pair count."""
        return self.suppression is None and not self.official


@dataclass(frozen=True)
class OpenImagesScores:
    """Scores of the `per_image` best relations and phrases, by predicate, or by triplet in official mode."""

    relations: Mapping[Hashable, float]
    phrases: Mapping[Hashable, float]
    """Average precision"""
    truths: Mapping[Hashable, int]
    recall: float
    """R@50: the share of true relations among the 50 best of their image."""

    @property
    def figures(self) -> dict[str, float]:
        """The weighted sum that papers compare, and its parts. wmAP is weighted by the numbers of truths."""
        weights = [*self.truths.values()]
        relations, phrases = (
            float(np.average([*each.values()], weights=weights)) if weights else float("nan")
            for each in (self.relations, self.phrases)
        )
        score = 0.2 * self.recall + 0.4 * relations + 0.4 * phrases
        return {"score_wtd": score, "recall_50": self.recall, "wmap_rel": relations, "wmap_phr": phrases}


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
        weights, truths = self.recalled.counted(chosen)
        there, kinds = np.flatnonzero(truths).tolist(), self.relations.kinds
        relations, phrases = (self._precision(each, chosen) for each in (self.relations, self.phrases))
        return OpenImagesScores(
            {kinds[k]: float(relations[k]) for k in there},
            {kinds[k]: float(phrases[k]) for k in there},
            {kinds[k]: int(truths[k]) for k in there},
            float(weights[self.recalled.right].sum() / truths.sum()) if there else float("nan"),
        )

    def _precision(self, ranking: Ranking, chosen: Integers | None) -> Floats:
        if not self.official:
            return ranking.areas(chosen)[0]
        weights, truths = ranking.counted(chosen)
        return eleven_points(ranking.right, ranking.bounds, truths, weights, official=True)[0]


def match_open_images(
    predicted: Relations, truth: Relations, rules: OpenImagesRules | None = None
) -> OpenImagesMatches:
    """Decides which relations and phrases are right. Raises ValueError as `check_test_set` does."""
    rules = rules or OpenImagesRules()
    check_test_set(predicted, truth)
    counted = counted_relations(predicted, rules)
    ranked, best = (
        without_duplicates(best_first(counted, limit), rules.suppression) for limit in (rules.per_image, RECALLED)
    )
    recalled = _relations(best, truth, rules)
    relations, phrases = _relations(ranked, truth, rules), _phrases(ranked, truth, rules)
    return OpenImagesMatches(relations, phrases, recalled, rules.official)


def counted_relations(predicted: Relations, rules: OpenImagesRules) -> Relations:
    """The predictions that compete for the places of an image: all, or the two best predicates of each pair."""
    if not rules.two_per_pair:
        return predicted
    every = best_first(predicted)
    return every.take(ranks_in([pair_numbers(every)]) < PREDICATES_PER_PAIR)


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
class ChallengeMatches:
    """Which relations and phrases are right."""

    relations: Ranking
    phrases: Ranking
    """By relationship type"""
    all_relations: Ranking
    all_phrases: Ranking
    """In one ranking, whatever their types: their AP is Google's weightedAP"""
    recalled: Ranking
    """The 50 best relations of each image in one ranking"""

    def figures(self, chosen: Integers | None = None) -> dict[str, float]:
        """Returns the score, which ranks entries of the challenge, and the two values of weightedAP.

        They are those on the chosen images (positions; repeated ones count repeatedly), all by default.
        """
        rankings = (self.relations, self.phrases, self.all_relations, self.all_phrases)
        relations, phrases, weighted_rel, weighted_phr = (mean_of(each.areas(chosen)[0]) for each in rankings)
        recall = mean_of(self.recalled.areas(chosen)[1])
        score = 0.4 * relations + 0.2 * recall + 0.4 * phrases
        return {"challenge": score, "weighted_rel": weighted_rel, "weighted_phr": weighted_phr}


def match_challenge(predicted: Relations, truth: Relations, verified: Integers | None = None) -> ChallengeMatches:
    """Decides which relations and phrases are right. Raises ValueError as `check_test_set` does.

    `verified` are M×2 image-level labels, positive or negative: position of the image, and object class.
    """
    check_test_set(predicted, truth)
    labels = np.zeros((0, 2), np.int64) if verified is None else verified.reshape(-1, 2)
    ranked = best_first(predicted.take(_judged(predicted, truth, labels)))
    right = relation_candidates(ranked, truth, 0.5, pixel=0.0).first_finds(len(ranked))
    right_phrases = phrase_candidates(ranked, truth, 0.5, pixel=0.0).first_finds(len(ranked))
    best = ranks_in([ranked.image]) < RECALLED
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
