"""Recall on VRD, as Lu et al. (2016, "Visual Relationship Detection with Language Priors") and later works report it.

Rules: Of each pair of boxes, the k best predicates count (1 in Lu et al.; 70, all there are, in Yu et al. 2017). R@K is
the share of all true relations of the test set that the K best predictions of their images find. A relation is found if
its three labels agree and both boxes overlap by at least half; a phrase, if the labels agree and the box around both
does (+1 pixel convention). A prediction takes the truth that it overlaps most of those not yet found. Predicate
detection is the recall of relations where boxes and labels were given.
"""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.matching import (
    MatchCandidates,
    pair_numbers,
    phrase_candidates,
    relation_candidates,
    unseen_triplets,
)
from pipeline.evaluation.ranking import GroupRecall, RecallMatches, best_first, check_test_set, ranks_in
from pipeline.evaluation.relations import Flags, Integers, Relations

LIMITS = (50, 100)
"""The K of R@K."""


def match_vrd(
    predicted: Relations,
    truth: Relations,
    predicates_per_pair: int | None = 1,
    seen: Integers | None = None,
    overlap: float = 0.5,
) -> RecallMatches:
    """Decides which truths are found, as relations and as phrases, and of those the ones that the training set lacks.

    Raises ValueError as `check_test_set` does.

    `predicates_per_pair`: the k; None counts all predicates of a pair. `overlap`: minimum IoU of boxes. `seen` are M×3
    triplets of the training set (subject label, object label, predicate).
    """
    check_test_set(predicted, truth)
    ranked = best_first(predicted)
    if predicates_per_pair is not None:
        ranked = ranked.take(ranks_in([pair_numbers(ranked)]) < predicates_per_pair)
    place = ranks_in([ranked.image])
    within = place < max(LIMITS)
    ranked, place = ranked.take(within), place[within]
    relations, phrases = (
        _found_at(candidates(ranked, truth, overlap), place, len(truth))
        for candidates in (relation_candidates, phrase_candidates)
    )
    new = unseen_triplets(truth, seen)

    def shares(found: Integers, counted: Flags) -> GroupRecall:
        """Each truth is a separate group."""
        return GroupRecall.of(truth.take(counted), np.arange(counted.sum()), found[counted], LIMITS)

    every = np.ones(len(truth), bool)
    found = {
        "relation R": shares(relations, every),
        "phrase R": shares(phrases, every),
        "zero-shot relation R": shares(relations, new),
        "zero-shot phrase R": shares(phrases, new),
    }
    return RecallMatches(found, "relation R")


def _found_at(candidates: MatchCandidates, place: Integers, truths: int) -> Integers:
    """Returns T: the place of the prediction of its image that finds each truth, or a place after all."""
    assigned = candidates.assigned()
    found = np.full(truths, np.iinfo(np.int64).max)
    found[assigned.truth] = place[assigned.prediction]
    return found
