"""Summaries of verdicts: counts, time, agreement, the precision of a run's labels, and thresholds to reach one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from pipeline.labels.audit_sample import (
    MOST_AUDITED,
    RIGHT,
    UNJUDGED,
    UNSURE,
    WRONG,
    AuditPrecision,
    AuditStrata,
    audit_precision,
    permanent_numbers,
)
from pipeline.labels.label_overrides import is_right, is_wrong
from pipeline.labels.label_rows import ReviewableLabel
from pipeline.labels.verdicts import StandingVerdicts, Verdict
from tagger.labelling.calibration import Calibration


@dataclass(frozen=True)
class VerdictSummary:
    """Counts of standing verdicts, unless stated otherwise."""

    relations: int
    """Relations with a verdict."""
    kinds: Mapping[str, int]
    undone: int
    """Verdicts that their reviewer took back or replaced."""
    reviewers: Mapping[str, Mapping[str, int]]
    """Reviewer → kind → count."""
    seconds: Mapping[str, float]
    """Reviewer → median seconds per verdict, if the time is known."""
    predicates: Mapping[str, Mapping[str, int]]
    """Predicate → number of right, wrong and unsure relations by majority, most frequent predicates first."""
    agreement: ReviewerAgreement
    damaged: tuple[str, ...]
    audit: AuditPrecision | None = None
    """The precision of a run's labels; None without a run."""


def outcome_of(said: Mapping[str, Verdict]) -> int:
    """The majority's opinion of a label: RIGHT, WRONG, or UNSURE for a tie."""
    if is_right(said):
        return RIGHT
    return WRONG if is_wrong(said) else UNSURE


def summarize(
    verdicts: Iterable[Verdict], standing: StandingVerdicts, damaged: Sequence[str], audit: AuditPrecision | None = None
) -> VerdictSummary:
    """Summarizes a log: all its `verdicts`, and the `standing` ones."""
    said_at_all = [verdict for verdict in verdicts if verdict.kind != "undo"]
    reviewers: dict[str, Counter[str]] = {}
    predicates: dict[str, Counter[str]] = {}
    for relation, said in standing.items():
        for name, verdict in said.items():
            reviewers.setdefault(name, Counter())[verdict.kind] += 1
        words = {RIGHT: "right", WRONG: "wrong", UNSURE: "unsure"}
        predicates.setdefault(relation.predicate, Counter())[words[outcome_of(said)]] += 1
    seconds: dict[str, list[float]] = {}
    for verdict in said_at_all:
        if verdict.seconds is not None:
            seconds.setdefault(verdict.reviewer, []).append(verdict.seconds)
    kinds = sum(reviewers.values(), Counter())
    ranked = sorted(predicates.items(), key=lambda each: (-each[1].total(), each[0]))
    return VerdictSummary(
        relations=len(standing),
        kinds=dict(kinds.most_common()),
        undone=len(said_at_all) - kinds.total(),
        reviewers={name: dict(counts.most_common()) for name, counts in sorted(reviewers.items())},
        seconds={name: median(times) for name, times in sorted(seconds.items())},
        predicates={name: dict(counts) for name, counts in ranked},
        agreement=reviewer_agreement(standing),
        damaged=tuple(damaged),
        audit=audit,
    )


def audit_of(labels: Sequence[ReviewableLabel], standing: StandingVerdicts, seed: int) -> AuditPrecision:
    """The precision of labels, estimated from the verdicts on their stratified random sample."""
    numbers = permanent_numbers((each.relation for each in labels), seed)
    lowest = np.argsort(numbers, kind="stable")[:MOST_AUDITED]
    audited = [labels[place] for place in lowest]
    strata = AuditStrata.of([each.relation.predicate for each in audited], [each.confidence for each in audited])
    outcomes = [outcome_of(standing[each.relation]) if each.relation in standing else UNJUDGED for each in audited]
    return audit_precision(strata, numbers[lowest], np.array(outcomes, np.int8))


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance. `value`: None without common items, or if chance alone would agree on all."""

    value: float | None
    items: int
    """Items that at least two reviewers judged."""
    observed: float | None
    """Share of agreeing pairs of verdicts on one item."""
    expected: float | None
    """The share expected by chance."""


@dataclass(frozen=True)
class ReviewerAgreement:
    """Agreement beyond chance of all reviewers (Fleiss) and of each two (Cohen). `unsure` counts as a kind."""

    reviewers: tuple[str, ...]
    fleiss: Kappa
    pairs: Mapping[tuple[str, str], Kappa]


def reviewer_agreement(standing: StandingVerdicts) -> ReviewerAgreement:
    """Compares the reviewers' standing verdicts."""
    reviewers = tuple(sorted({name for said in standing.values() for name in said}))
    pairs = {}
    for one, other in combinations(reviewers, 2):
        both = [(said[one].kind, said[other].kind) for said in standing.values() if one in said and other in said]
        pairs[one, other] = cohens_kappa([first for first, _ in both], [second for _, second in both])
    every = fleiss_kappa([Counter(verdict.kind for verdict in said.values()) for said in standing.values()])
    return ReviewerAgreement(reviewers, every, pairs)


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> Kappa:
    """Kappa of two reviewers' answers to the same items (Cohen, Educational and Psychological Measurement 20, 1960)."""
    items = len(first)
    if not items:
        return Kappa(None, 0, None, None)
    observed = sum(one == other for one, other in zip(first, second, strict=True)) / items
    counts = Counter(first), Counter(second)
    expected = sum(counts[0][kind] * counts[1][kind] for kind in counts[0]) / items**2
    return _kappa(items, observed, expected)


def fleiss_kappa(answers: Sequence[Mapping[str, int]]) -> Kappa:
    """Kappa of several reviewers (Fleiss, Psychological Bulletin 76, 1971). `answers`: answer → count, for each item.

    Items may have different numbers of answers. Each item counts once in the observed agreement; items with a single
    answer are excluded.
    """
    shared = [item for item in answers if sum(item.values()) >= 2]
    if not shared:
        return Kappa(None, 0, None, None)
    numbers = [sum(item.values()) for item in shared]
    agreements = [
        sum(count * (count - 1) for count in item.values()) / (number * (number - 1))
        for item, number in zip(shared, numbers, strict=True)
    ]
    total: Counter[str] = Counter()
    for item in shared:
        total.update(item)
    expected = sum((count / sum(numbers)) ** 2 for count in total.values())
    return _kappa(len(shared), sum(agreements) / len(shared), expected)


def _kappa(items: int, observed: float, expected: float) -> Kappa:
    return Kappa(None if expected >= 1 else (observed - expected) / (1 - expected), items, observed, expected)


FEWEST = 20
"""Number of confident verdicts that a predicate needs for its own threshold."""


@dataclass(frozen=True)
class ProposedThreshold:
    """The lowest threshold at which the labels of a predicate are expected to reach a precision."""

    predicate: str
    threshold: float | None
    """None: no threshold reaches it."""
    precision: float
    """Expected share of right labels among those kept or, if no threshold reaches the wanted one, at best."""
    labels: int
    """Number of labels at or above the threshold or, without one, with a confidence at which verdicts exist."""
    verdicts: int


def fitted_on_verdicts(
    labels: Sequence[ReviewableLabel], standing: StandingVerdicts
) -> tuple[Calibration, Mapping[str, list[float]]]:
    """A calibration fitted to the confident verdicts, and the judged confidences by predicate."""
    judged = [(each, outcome_of(standing[each.relation])) for each in labels if each.relation in standing]
    confident = [(each, outcome == RIGHT) for each, outcome in judged if outcome != UNSURE]
    names = [each.relation.predicate for each, _ in confident]
    scores = [each.confidence for each, _ in confident]
    seen: dict[str, list[float]] = {}
    for name, score in zip(names, scores, strict=True):
        seen.setdefault(name, []).append(score)
    return Calibration.fit(names, scores, [right for _, right in confident]), seen


def propose_thresholds(
    labels: Sequence[ReviewableLabel], standing: StandingVerdicts, precision: float, fewest: int = FEWEST
) -> list[ProposedThreshold]:
    """Proposes a threshold for each predicate with at least `fewest` confident verdicts.

    A calibration fitted to the verdicts gives each label its probability of being right. The queue that asked for a
    verdict does not matter, since queues choose by confidence and predicate, which the calibration knows. No threshold
    lies below the lowest judged confidence, where the fit would be a guess.
    """
    calibration, seen = fitted_on_verdicts(labels, standing)
    confidences: dict[str, list[float]] = {}
    for each in labels:
        confidences.setdefault(each.relation.predicate, []).append(each.confidence)
    proposed = []
    for predicate, judged in sorted(seen.items(), key=lambda each: (-len(each[1]), each[0])):
        if len(judged) < fewest:
            continue
        scores = np.sort([score for score in confidences[predicate] if score >= min(judged)])[::-1]
        probabilities = np.array([calibration.probability(predicate, score) for score in scores])
        means = np.cumsum(probabilities) / np.arange(1, len(scores) + 1)
        # No threshold separates equal confidences: only the last of them may end the kept labels.
        ends = np.append(scores[1:] != scores[:-1], True)
        reached = np.flatnonzero((means >= precision) & ends)
        last = int(reached[-1]) if len(reached) else -1
        threshold = float(scores[last]) if last >= 0 else None
        best = float(means[last] if last >= 0 else means[ends].max())
        proposed.append(
            ProposedThreshold(predicate, threshold, best, last + 1 if last >= 0 else len(scores), len(judged))
        )
    return proposed
