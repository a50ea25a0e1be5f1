"""How far reviewers agree beyond chance: Cohen's kappa of two, Fleiss' kappa of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline.labels.verdicts import JudgedRelation, Verdict


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance. `value` is None without common items, or where chance alone would agree on all."""

    value: float | None
    items: int
    """Items that at least two reviewers judged."""
    observed: float | None
    """Share of pairs of verdicts on one item that agree."""
    expected: float | None
    """The same by chance."""


@dataclass(frozen=True)
class ReviewerAgreement:
    """Agreement of all reviewers (Fleiss) and of each two (Cohen), over kinds of verdicts; `unsure` is a kind."""

    reviewers: tuple[str, ...]
    fleiss: Kappa
    pairs: Mapping[tuple[str, str], Kappa]


def reviewer_agreement(standing: Mapping[JudgedRelation, Mapping[str, Verdict]]) -> ReviewerAgreement:
    """Compares the verdicts that stand."""
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

    Items may have different numbers of answers; each item counts once in the observed agreement, and those with a single
    answer are left out.
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
