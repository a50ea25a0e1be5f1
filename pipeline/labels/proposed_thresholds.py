"""Proposes thresholds by predicate that reach a wanted precision, from verdicts on labels (docs/review.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.labels.audit_sample import RIGHT, UNSURE
from pipeline.labels.reviewable_labels import ReviewableLabel
from pipeline.labels.verdict_summary import StandingVerdicts, outcome_of
from tagger.labelling.calibration import Calibration

FEWEST = 20
"""Sure verdicts that a predicate needs to get a threshold of its own."""


@dataclass(frozen=True)
class ProposedThreshold:
    """The lowest threshold at which the labels of a predicate are expected to reach a precision."""

    predicate: str
    threshold: float | None
    """None: no threshold reaches it."""
    precision: float
    """Expected share of right labels among those kept, or at best where no threshold reaches the wanted one."""
    labels: int
    """Labels at or above the threshold, or with a verdict's confidence where there is none."""
    verdicts: int


def fitted_on_verdicts(
    labels: Sequence[ReviewableLabel], standing: StandingVerdicts
) -> tuple[Calibration, Mapping[str, list[float]]]:
    """A calibration of confidences, fitted on the sure verdicts about labels, and the judged confidences by predicate."""
    judged = [(each, outcome_of(standing[each.relation])) for each in labels if each.relation in standing]
    sure = [(each, outcome == RIGHT) for each, outcome in judged if outcome != UNSURE]
    names = [each.relation.predicate for each, _ in sure]
    scores = [each.confidence for each, _ in sure]
    seen: dict[str, list[float]] = {}
    for name, score in zip(names, scores, strict=True):
        seen.setdefault(name, []).append(score)
    return Calibration.fit(names, scores, [right for _, right in sure]), seen


def propose_thresholds(
    labels: Sequence[ReviewableLabel], standing: StandingVerdicts, precision: float, fewest: int = FEWEST
) -> list[ProposedThreshold]:
    """Proposes a threshold for each predicate with at least `fewest` sure verdicts.

    A calibration that is fitted on the verdicts gives each label the probability to be right. It does not matter which queue
    asked for a verdict, since queues choose by confidence and predicate, which the calibration knows. No threshold lies below
    the lowest confidence that was judged, where the fit would be a guess.
    """
    calibration, seen = fitted_on_verdicts(labels, standing)
    confidences: dict[str, list[float]] = {}
    for each in labels:
        confidences.setdefault(each.relation.predicate, []).append(each.confidence)
    found = []
    for predicate, judged in sorted(seen.items(), key=lambda each: (-len(each[1]), each[0])):
        if len(judged) < fewest:
            continue
        scores = np.sort([score for score in confidences[predicate] if score >= min(judged)])[::-1]
        probabilities = np.array([calibration.probability(predicate, score) for score in scores])
        means = np.cumsum(probabilities) / np.arange(1, len(scores) + 1)
        # A cut between equal confidences is none: only the last of equals may end the kept labels.
        ends = np.append(scores[1:] != scores[:-1], True)
        reached = np.flatnonzero((means >= precision) & ends)
        last = int(reached[-1]) if len(reached) else -1
        threshold = float(scores[last]) if last >= 0 else None
        best = float(means[last] if last >= 0 else means[ends].max())
        found.append(ProposedThreshold(predicate, threshold, best, last + 1 if last >= 0 else len(scores), len(judged)))
    return found
