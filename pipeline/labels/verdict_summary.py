"""Summaries of verdicts: counts, time, agreement, the precision of a run's labels, and thresholds to reach one."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.labels.audit_sample import (
    AUDIT_SEED,
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
from pipeline.labels.kept_labels import choice_of
from pipeline.labels.label_overrides import votes_for
from pipeline.labels.label_rows import ReviewableLabel, reviewable_labels
from pipeline.labels.labelled_partitions import partition_artifacts
from pipeline.labels.team import Team, read_team
from pipeline.labels.verdict_log import VerdictLog, folder_to_read
from pipeline.labels.verdicts import ADJUDICATION, AUDIT, StandingVerdicts, Verdict, asked_again, deciding, looked_at
from storage.runs import Run
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
    hourly: Mapping[str, float]
    """Reviewer → verdicts per hour of work, if known. Verdicts after a pause of `PAUSE` seconds are left out."""
    reaction: Mapping[str, float]
    """Reviewer → their `reaction_time`, if the time is known."""
    hasty: Mapping[str, int]
    """Reviewer → verdicts that took less than it."""
    honeypots: Mapping[str, tuple[int, int]]
    """Reviewer → settled labels that they were asked again, and how many of them they judged as they were settled."""
    predicates: Mapping[str, Mapping[str, int]]
    """Predicate → number of right, wrong and unsure relations by majority, most frequent predicates first."""
    agreement: ReviewerAgreement
    damaged: tuple[str, ...]
    audit: AuditPrecision | None = None
    """The precision of a run's labels; None without a run."""


def outcome_of(said: Mapping[str, Verdict]) -> int:
    """What settles a label, by adjudication or majority: RIGHT, WRONG, or UNSURE for a tie."""
    votes = votes_for(deciding(said))
    return RIGHT if votes > 0 else WRONG if votes < 0 else UNSURE


PAUSE = 120.0
"""Seconds on one label after which the reviewer was away."""


REACTION = 0.3
"""Seconds: too few for anyone to see a label and choose a key."""


def reaction_time(seconds: Iterable[float]) -> float:
    """Seconds below which a person's verdicts are hasty: a quarter of their median, but at least `REACTION`."""
    return round(max(REACTION, median(seconds) / 4), 2)


def labels_per_hour(seconds: Iterable[float]) -> float | None:
    """Verdicts per hour, by the time that each one took; None without any. Pauses are left out."""
    worked = [time for time in seconds if time < PAUSE]
    return 3600 * len(worked) / sum(worked) if sum(worked) else None


def summarize(
    verdicts: Iterable[Verdict], standing: StandingVerdicts, damaged: Sequence[str], audit: AuditPrecision | None = None
) -> VerdictSummary:
    """Summarizes a log: all its `verdicts`, and the `standing` ones."""
    said_at_all = [verdict for verdict in verdicts if verdict.kind != "undo"]
    reviewers: dict[str, Counter[str]] = {}
    predicates: dict[str, Counter[str]] = {}
    honeypots: dict[str, tuple[int, int]] = {}
    for relation, said in standing.items():
        for name, verdict in said.items():
            reviewers.setdefault(name, Counter())[verdict.kind] += 1
        words = {RIGHT: "right", WRONG: "wrong", UNSURE: "unsure"}
        predicates.setdefault(relation.predicate, Counter())[words[outcome_of(said)]] += 1
        for name, verdict in asked_again(said).items():
            asked, right = honeypots.get(name, (0, 0))
            honeypots[name] = asked + 1, right + (outcome_of({name: verdict}) == outcome_of(said))
    seconds: dict[str, list[float]] = {}
    for verdict in said_at_all:
        if verdict.seconds is not None:
            seconds.setdefault(verdict.reviewer, []).append(verdict.seconds)
    reaction = {name: reaction_time(times) for name, times in sorted(seconds.items())}
    timed = [one for said in standing.values() for one in said.values() if one.seconds is not None]
    hasty = Counter(one.reviewer for one in timed if (one.seconds or 0) < reaction.get(one.reviewer, 0))
    kinds = sum(reviewers.values(), Counter())
    ranked = sorted(predicates.items(), key=lambda each: (-each[1].total(), each[0]))
    return VerdictSummary(
        relations=len(standing),
        kinds=dict(kinds.most_common()),
        undone=len(said_at_all) - kinds.total(),
        reviewers={name: dict(counts.most_common()) for name, counts in sorted(reviewers.items())},
        seconds={name: median(times) for name, times in sorted(seconds.items())},
        hourly={name: rate for name, times in sorted(seconds.items()) if (rate := labels_per_hour(times))},
        reaction=reaction,
        hasty=dict(hasty),
        honeypots=dict(sorted(honeypots.items())),
        predicates={name: dict(counts) for name, counts in ranked},
        agreement=reviewer_agreement(standing),
        damaged=tuple(damaged),
        audit=audit,
    )


def audit_of(labels: Iterable[ReviewableLabel], standing: StandingVerdicts, team: Team | None = None) -> AuditPrecision:
    """The precision of labels, estimated from the verdicts on their stratified random sample.

    Labels of copies of an image are one, the first, since they share their verdicts. Memory holds no labels but those
    of the sample: there may be millions.
    """
    numbered = ((permanent_numbers([one.relation], AUDIT_SEED).item(), at, one) for at, one in enumerate(labels))
    distinct = {number: one for number, _, one in reversed(nsmallest(MOST_AUDITED, numbered))}
    numbers, sample = np.array([*distinct], np.float64), [*distinct.values()]
    relations = [each.relation for each in sample]
    predicates = [each.predicate for each in relations]
    strata = AuditStrata.of(predicates, [each.confidence for each in sample], [each.opinion for each in sample])
    judged = [audited(standing.get(each, {})) for each in relations]
    seats = None if team is None else np.array([team.seats(each.image)[0] for each in relations], np.int64)
    outcomes, blind = np.array([each[0] for each in judged], np.int8), np.array([each[1] for each in judged], bool)
    return audit_precision(strata, numbers, outcomes, seats, predicates, blind)


def run_precision(run: Run, verdicts: Path | None = None) -> AuditPrecision | None:
    """The precision of the labels that a run keeps, by the verdicts in a folder; None without any on their sample.

    None also for imported labels (of a run without a recipe), which take no verdict, and if any are of earlier images
    or boxes. `verdicts`: None for the store's own. Raises `FatalError` for a folder that is not there.
    """
    folder = folder_to_read(run.store, verdicts)
    standing = VerdictLog(folder).standing()
    if not standing or "tag" not in run.steps() or choice_of(run) is None:
        return None
    if any(found.fitting() is not found for found in partition_artifacts(run).values()):
        return None
    found = audit_of(reviewable_labels(run), standing, read_team(folder))
    return None if found.precision is None else found


def audited(said: Mapping[str, Verdict]) -> tuple[int, bool]:
    """The outcome of a label for the audit, and whether those who settle it were blind.

    A label that was only accepted together with alike ones is UNJUDGED.
    """
    seen = looked_at(said)
    if not seen:
        return UNJUDGED, False
    return outcome_of(seen), all(verdict.queue in (AUDIT, ADJUDICATION) for verdict in deciding(seen).values())


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance, 1 at most. `value`: None without common items, or if chance alone would agree on all."""

    value: float | None
    items: int
    """Items that at least two reviewers judged."""
    observed: float | None
    """Share of agreeing pairs of verdicts on one item."""
    expected: float | None
    """The share expected by chance."""


@dataclass(frozen=True)
class ReviewerAgreement:
    """Agreement of all reviewers beyond chance, on labels that several judged. `unsure` is a kind."""

    fleiss: Kappa
    krippendorff: Kappa


def reviewer_agreement(standing: StandingVerdicts) -> ReviewerAgreement:
    """Compares the reviewers' standing verdicts, without adjudication, which has seen them, and what was asked later.

    Only labels on which reviewers disagreed are asked later: more answers to them would lower the agreement.
    """
    answers = []
    for said in standing.values():
        later = asked_again(said)
        first = (one for name, one in looked_at(said).items() if name not in later and one.queue != ADJUDICATION)
        answers.append(Counter(str(verdict.kind) for verdict in first))
    return ReviewerAgreement(fleiss_kappa(answers), krippendorff_alpha(answers))


def fleiss_kappa(answers: Sequence[Mapping[str, int]]) -> Kappa:
    """Kappa of several reviewers (Fleiss, Psychological Bulletin 76, 1971). `answers`: answer → count, for each item.

    Items may have different numbers of answers. Each item counts once in the observed agreement; items with a single
    answer are excluded.
    """
    shared, total = _shared(answers)
    if not shared:
        return Kappa(None, 0, None, None)
    expected = sum((count / total.total()) ** 2 for count in total.values())
    agreeing = sum(_agreeing_pairs(item) / (item.total() * (item.total() - 1)) for item in shared)
    return _kappa(len(shared), agreeing / len(shared), expected)


def krippendorff_alpha(answers: Sequence[Mapping[str, int]]) -> Kappa:
    """Alpha for nominal answers (Krippendorff, Content Analysis, 4th edition, 2019, chapter 12), as `fleiss_kappa`.

    Each answer to a shared item counts once, so items with many answers weigh more. Expected agreement draws without
    replacement, which keeps alpha unbiased for few answers.
    """
    shared, total = _shared(answers)
    if not shared:
        return Kappa(None, 0, None, None)
    number = total.total()
    agreeing = sum(_agreeing_pairs(item) / (item.total() - 1) for item in shared)
    return _kappa(len(shared), agreeing / number, _agreeing_pairs(total) / (number * (number - 1)))


def _shared(answers: Sequence[Mapping[str, int]]) -> tuple[list[Counter[str]], Counter[str]]:
    """The items with several answers, and the sum of their answers."""
    shared = [item for item in map(Counter, answers) if item.total() >= 2]
    return shared, sum(shared, Counter())


def _agreeing_pairs(answers: Counter[str]) -> int:
    return sum(count * (count - 1) for count in answers.values())


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
    labels: Iterable[ReviewableLabel], standing: StandingVerdicts
) -> tuple[Calibration, Mapping[str, list[float]]]:
    """A calibration fitted to the confident verdicts, and the judged confidences by predicate.

    Labels of copies of an image are one, since they share their verdicts.
    """
    distinct = {each.relation: each for each in labels if each.relation in standing}.values()
    judged = [(each, audited(standing[each.relation])[0]) for each in distinct]
    confident = [(each, outcome == RIGHT) for each, outcome in judged if outcome in (RIGHT, WRONG)]
    names = [each.relation.predicate for each, _ in confident]
    scores = [each.confidence for each, _ in confident]
    seen: dict[str, list[float]] = {}
    for name, score in zip(names, scores, strict=True):
        seen.setdefault(name, []).append(score)
    return Calibration.fit(names, scores, [right for _, right in confident]), seen


def propose_thresholds(
    labels: Iterable[ReviewableLabel], standing: StandingVerdicts, precision: float, fewest: int = FEWEST
) -> list[ProposedThreshold]:
    """Proposes a threshold for each predicate with at least `fewest` confident verdicts.

    A calibration fitted to the verdicts gives each label its probability of being right. The queue that asked for a
    verdict does not matter, since queues choose by confidence and predicate, which the calibration knows. No threshold
    lies below the lowest judged confidence, where the fit would be a guess.
    """
    confidences: dict[str, array[float]] = {}

    def noted() -> Iterator[ReviewableLabel]:
        for each in labels:
            confidences.setdefault(each.relation.predicate, array("d")).append(each.confidence)
            yield each

    calibration, seen = fitted_on_verdicts(noted(), standing)
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
