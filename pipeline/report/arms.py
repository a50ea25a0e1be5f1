"""Aggregates scores of the pre-training arms over seeds, and the share of the gain that pseudo-labels recover."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.charts import series
from storage.runs import Run

ZERO_SHOT = "zero_shot_map"
DETECTION = "detection_ap50"
_WORDS = {
    ZERO_SHOT: "zero-shot mAP",
    DETECTION: "detection AP50",
    "zero_shot_recall": "zero-shot recall",
    "triplets": "triplets tested",
}


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one score over the seeds of an arm."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None with one seed."""
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Computes mean and deviation of one or more values."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, tuple(values))


@dataclass(frozen=True)
class ArmScores:
    """The scores of one arm, by name."""

    arm: str
    seeds: int
    scores: Mapping[str, Spread]


def arm_scores(run: Run) -> tuple[ArmScores, ...]:
    """Collects the scores of every evaluated arm, in the order none, naive, pseudo, given."""
    collected: dict[str, dict[str, list[float]]] = {}
    seeds: dict[str, int] = {}
    for step in sorted(run.steps()):
        stage, _, rest = step.partition(":")
        artifacts = list(run.artifacts(step).values()) if stage == "evaluate" else []
        if not artifacts:
            continue
        arm = rest.partition(":")[0]
        seeds[arm] = seeds.get(arm, 0) + 1
        for artifact in artifacts:
            for each in series(artifact):
                collected.setdefault(arm, {}).setdefault(each.name, []).append(float(each.values[-1]))
    order = {"none": 0, "naive": 1, "pseudo": 2, "given": 3}
    return tuple(
        ArmScores(arm, seeds[arm], {name: Spread.of(values) for name, values in collected.get(arm, {}).items()})
        for arm in sorted(seeds, key=lambda arm: (order.get(arm, len(order)), arm))
    )


def share_of_gain(arms: Sequence[ArmScores], score: str = ZERO_SHOT) -> float | None:
    """(pseudo - none) / (given - none) of the mean scores; None unless all arms have the score and given beats none."""
    means = {arm.arm: arm.scores[score].mean for arm in arms if score in arm.scores}
    if not {"none", "pseudo", "given"} <= means.keys() or means["given"] <= means["none"]:
        return None
    return (means["pseudo"] - means["none"]) / (means["given"] - means["none"])


def score_names(arms: Sequence[ArmScores]) -> list[str]:
    """Names of all scores that any arm has, headline scores first."""
    names = {name for arm in arms for name in arm.scores}
    first = [name for name in (ZERO_SHOT, DETECTION) if name in names]
    return first + sorted(names.difference(first))


def score_name(name: str) -> str:
    """The display name of a score."""
    return _WORDS.get(name, name.replace("_", " "))


def score_text(score: Spread | None) -> str:
    """Formats a score: shares with three digits and their deviation, counts as whole numbers."""
    if score is None:
        return "–"
    if all(value > 1 and value.is_integer() for value in score.values):
        return f"{score.mean:,.0f}"
    return f"{score.mean:.3f}" + ("" if score.deviation is None else f" ± {score.deviation:.3f}")
