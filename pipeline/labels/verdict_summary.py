"""Summarizes verdicts: counts, agreement of reviewers, their time, and the precision of a run's labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from pipeline.labels.reviewable_labels import ReviewableLabel
from pipeline.labels.reviewer_agreement import ReviewerAgreement, reviewer_agreement
from pipeline.labels.settled_verdicts import is_right, is_wrong
from pipeline.labels.verdicts import JudgedRelation, Verdict

StandingVerdicts = Mapping[JudgedRelation, Mapping[str, Verdict]]


@dataclass(frozen=True)
class VerdictSummary:
    """Counts of verdicts that stand, unless said otherwise."""

    relations: int
    """Relations with a verdict."""
    kinds: Mapping[str, int]
    undone: int
    """Verdicts that were taken back or replaced by another of the same reviewer."""
    reviewers: Mapping[str, Mapping[str, int]]
    """Reviewer → kind → count."""
    seconds: Mapping[str, float]
    """Reviewer → the median of his seconds for a verdict, where the time is known."""
    predicates: Mapping[str, Mapping[str, int]]
    """Predicate → right, wrong and unsure relations, as most reviewers see them; those with the most come first."""
    agreement: ReviewerAgreement
    damaged: tuple[str, ...]
    audit: AuditPrecision | None = None
    """The precision of a run's labels; None without a run."""


def outcome_of(said: Mapping[str, Verdict]) -> int:
    """What most reviewers make of a label: RIGHT, WRONG, or UNSURE for a tie."""
    if is_right(said):
        return RIGHT
    return WRONG if is_wrong(said) else UNSURE


def summarize(
    verdicts: Iterable[Verdict], standing: StandingVerdicts, damaged: Sequence[str], audit: AuditPrecision | None = None
) -> VerdictSummary:
    """Summarizes a log: all its `verdicts`, and those that stand."""
    told = [verdict for verdict in verdicts if verdict.kind != "undo"]
    reviewers: dict[str, Counter[str]] = {}
    predicates: dict[str, Counter[str]] = {}
    for relation, said in standing.items():
        for name, verdict in said.items():
            reviewers.setdefault(name, Counter())[verdict.kind] += 1
        words = {RIGHT: "right", WRONG: "wrong", UNSURE: "unsure"}
        predicates.setdefault(relation.predicate, Counter())[words[outcome_of(said)]] += 1
    seconds: dict[str, list[float]] = {}
    for verdict in told:
        if verdict.seconds is not None:
            seconds.setdefault(verdict.reviewer, []).append(verdict.seconds)
    kinds = sum(reviewers.values(), Counter())
    ranked = sorted(predicates.items(), key=lambda each: (-each[1].total(), each[0]))
    return VerdictSummary(
        relations=len(standing),
        kinds=dict(kinds.most_common()),
        undone=len(told) - kinds.total(),
        reviewers={name: dict(counts.most_common()) for name, counts in sorted(reviewers.items())},
        seconds={name: median(times) for name, times in sorted(seconds.items())},
        predicates={name: dict(counts) for name, counts in ranked},
        agreement=reviewer_agreement(standing),
        damaged=tuple(damaged),
        audit=audit,
    )


def audit_of(labels: Sequence[ReviewableLabel], standing: StandingVerdicts, seed: int) -> AuditPrecision:
    """The precision of labels by the verdicts on their stratified random sample."""
    numbers = permanent_numbers((each.relation for each in labels), seed)
    lowest = np.argsort(numbers, kind="stable")[:MOST_AUDITED]
    audited = [labels[place] for place in lowest]
    strata = AuditStrata.of([each.relation.predicate for each in audited], [each.confidence for each in audited])
    outcomes = [outcome_of(standing[each.relation]) if each.relation in standing else UNJUDGED for each in audited]
    return audit_precision(strata, numbers[lowest], np.array(outcomes, np.int8))
