"""Summarises the steps of a run, from this run's outcome and from recorded manifests, and what they quarantined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.labels.label_funnel import most_frequent_first
from pipeline.runtime.chat_endpoint import TOKENS
from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.runs import Run


@dataclass(frozen=True)
class StepOutcome:
    """One row of the stage table. `rejected` counts quarantined rows and items; `rate` is in images per second."""

    step: str
    partitions: int
    cached: int | None
    """Cached partitions; None if only the record of a run is available."""
    rows_in: int
    rows_out: int
    rejected: int
    seconds: float
    """Wall time in this run or, if `recorded`, compute time of an earlier run summed over its workers."""
    rate: float
    recorded: bool = False
    """Whether `seconds` and `rate` come from an earlier run."""


@dataclass
class RunOutcome:
    """The outcome of a finished run."""

    run: str
    steps: list[StepOutcome] = field(default_factory=list)

    @property
    def computed(self) -> int:
        """Partitions that were not cached."""
        return sum(step.partitions - (step.cached or 0) for step in self.steps)

    def as_rows(self) -> list[dict[str, Any]]:
        """The steps as plain values."""
        return list(map(asdict, self.steps))


@dataclass(frozen=True)
class StepSummary:
    """Totals over the manifests of one recorded step.

    `seconds` is compute time, summed over partitions and the processes of a training run; `rate` is images per second
    of it. For training, it counts images in every epoch.
    """

    step: str
    partitions: int
    rows_in: int
    rows_out: int
    rejected: Mapping[str, int]
    """Rejects by reason. A row may lose items and still be kept, so the sum need not equal rows_in - rows_out."""
    seconds: float
    rate: float
    bytes: int
    facts: Mapping[str, Any]
    """Measurements of the stage: integers are summed over partitions, floats averaged, others kept if all agree."""
    hosts: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings that the artifacts were computed with and that all partitions share, whatever later recipes say."""
    outdated: bool = False
    """Whether it was made from artifacts that the run no longer has, e.g. because a later execution ended before it."""

    @classmethod
    def of(cls, step: str, artifacts: Iterable[Artifact]) -> StepSummary:
        """Aggregates the manifests of a step's artifacts."""
        manifests = [artifact.manifest for artifact in artifacts]
        rejected = sum((Counter(manifest.counts.rejected) for manifest in manifests), Counter[str]())
        rows_in = sum(manifest.counts.rows_in for manifest in manifests)
        seen, seconds = _images_seen(manifests), _worker_seconds(manifests)
        return cls(
            step=step,
            partitions=len(manifests),
            rows_in=rows_in,
            rows_out=sum(manifest.counts.rows_out for manifest in manifests),
            rejected=dict(sorted(rejected.items())),
            seconds=round(seconds, 2),
            rate=round(seen / seconds, 1) if seen and seconds else 0.0,
            bytes=sum(entry.size for manifest in manifests for entry in manifest.files.values()),
            facts=_facts([manifest.facts for manifest in manifests]),
            hosts=tuple(sorted({manifest.host for manifest in manifests})),
            settings=_common([manifest.terms.get("settings", {}) for manifest in manifests]),
        )

    def as_outcome(self, cached: int | None) -> StepOutcome:
        """The summary as a row of the stage table."""
        return StepOutcome(
            step=self.step,
            partitions=self.partitions,
            cached=cached,
            rows_in=self.rows_in,
            rows_out=self.rows_out,
            rejected=sum(self.rejected.values()),
            seconds=self.seconds,
            rate=self.rate,
            recorded=True,
        )


def summaries(run: Run) -> list[StepSummary]:
    """All recorded steps of a run, in DAG order. Steps whose artifacts are missing have no partitions."""
    found: list[StepSummary] = []
    current: set[str] = set()
    for step in sorted(run.steps(), key=chain_order):
        artifacts = run.artifacts(step).values()
        # "records" are digests of what `ingest` reads, which no artifact holds.
        read = {d for a in artifacts for t, ds in a.manifest.terms["inputs"].items() if t != "records" for d in ds}
        found.append(replace(StepSummary.of(step, artifacts), outdated=not read <= current))
        current |= set() if found[-1].outdated else {artifact.content for artifact in artifacts}
    return found


def outdated_in_words(steps: Sequence[StepSummary]) -> str:
    """A note on the outdated steps among these; "" if there are none."""
    names = ", ".join(step.step for step in steps if step.outdated)
    return names and f"Outdated: {names} (made from results that a later execution replaced; run the recipe to the end)"


def stage_rows(steps: Sequence[StepSummary], outcome: RunOutcome | None) -> list[StepOutcome]:
    """The rows of the stage table. Steps that this run computed show wall time, the others their recorded time."""
    if outcome is None:
        return [step.as_outcome(None) for step in steps]
    recorded = {step.step: step for step in steps}
    return [
        recorded[line.step].as_outcome(line.cached)
        if line.cached == line.partitions and line.step in recorded
        else line
        for line in outcome.steps
    ]


def _images_seen(manifests: Sequence[Manifest]) -> int:
    return sum(manifest.facts.get("images_seen", manifest.counts.rows_in) for manifest in manifests)


def _worker_seconds(manifests: Sequence[Manifest]) -> float:
    """The compute time of all workers. A training run has several processes, which take the same time."""
    return float(sum(manifest.seconds * manifest.facts.get("processes", 1) for manifest in manifests))


def _common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings with the same value in all artifacts."""
    first = settings[0] if settings else {}
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in settings)}


def _facts(facts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in facts for name in each):
        values = [each[name] for each in facts if name in each]
        # In Python, a bool is an int.
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            found[name] = sum(values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            found[name] = round(sum(values) / len(values), 4)
        elif all(value == values[0] for value in values):
            found[name] = values[0]
    return found


ESTIMATE = "estimate"
"""Name of the note that keeps a run's estimate."""


@dataclass(frozen=True)
class StepCost:
    """The cost of a step per processed image. A training run counts an image each time it sees it."""

    step: str
    images: int
    seconds_per_image: float
    """Compute time, summed over workers."""
    bytes_per_image: float | None
    """Size of the artifacts; None for a step over whole datasets, whose size does not depend on the images."""
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    """Devices of training runs, from their manifests; empty for other stages."""
    settings: Mapping[str, Any]
    """The row settings of its first artifact."""
    tokens_per_image: tuple[float, ...] | None
    """Tokens of prompts and of answers of a model behind an endpoint, unusable answers included; None where none were
    counted."""

    @classmethod
    def of(cls, step: str, artifacts: Iterable[Artifact]) -> StepCost | None:
        """The cost of a step; None if it processed no image."""
        manifests = [artifact.manifest for artifact in artifacts]
        seen = _images_seen(manifests)
        rows = sum(manifest.counts.rows_in for manifest in manifests)
        if not seen:
            return None
        size = sum(entry.size for manifest in manifests for entry in manifest.files.values())
        tokens = [
            sum(m.facts.get(name, m.facts.get(f"{name} (new rows)", 0)) for m in manifests) / seen for name in TOKENS
        ]
        return cls(
            step=step,
            images=seen,
            seconds_per_image=_worker_seconds(manifests) / seen,
            bytes_per_image=size / rows if rows and manifests[0].partition != "all" else None,
            hosts=tuple(sorted({manifest.host for manifest in manifests})),
            devices=tuple(sorted({manifest.facts["device"] for manifest in manifests if "device" in manifest.facts})),
            settings=manifests[0].terms.get("settings", {}),
            tokens_per_image=tuple(tokens) if any(tokens) else None,
        )


def step_costs(run: Run) -> dict[str, StepCost]:
    """Step → cost, in DAG order, for the steps that processed images."""
    costs = {step: StepCost.of(step, run.artifacts(step).values()) for step in sorted(run.steps(), key=chain_order)}
    return {step: cost for step, cost in costs.items() if cost is not None}


@dataclass(frozen=True)
class ScoredEstimate:
    """The estimate of one step, compared with what it took."""

    step: str
    images: int
    """Number of images in the estimate."""
    estimated: float
    """Seconds per image."""
    actual: float | None
    """Seconds per image over the finished partitions; None before there are any."""

    @property
    def ratio(self) -> float | None:
        """Actual divided by estimated seconds; None before the step is done."""
        return self.actual / self.estimated if self.actual is not None and self.estimated else None


def scored_estimate(run: Run) -> list[ScoredEstimate]:
    """The steps of the estimate noted with a run; empty without one."""
    rows = [row for row in run.read_document(ESTIMATE).get("steps", []) if row["seconds"] is not None and row["images"]]
    if not rows:
        return []
    costs = step_costs(run)
    return [
        ScoredEstimate(
            row["step"],
            row["images"],
            row["seconds"] / row["images"],
            costs[row["step"]].seconds_per_image if row["step"] in costs else None,
        )
        for row in rows
    ]


EXAMPLES = 3


@dataclass(frozen=True)
class Quarantined:
    """Count and examples of one reason in one step."""

    step: str
    reason: str
    count: int
    examples: tuple[Mapping[str, Any], ...]


def quarantine(run: Run) -> list[Quarantined]:
    """All reasons of all steps, in DAG order; within a step, the most frequent reason comes first."""
    found = []
    for step in sorted(run.steps(), key=chain_order):
        artifacts = list(run.artifacts(step).values())
        counts = _counts(artifacts)
        rows = sampled(artifacts, EXAMPLES * len(counts))
        for reason, count in counts.items():
            found.append(Quarantined(step, reason, count, tuple(row for row in rows if row["reason"] == reason)))
    return found


def sampled(artifacts: Iterable[Artifact], most: int) -> list[dict[str, Any]]:
    """Samples about `most` quarantined rows: equally many per reason, at least one; most frequent reason first."""
    held = list(artifacts)
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in _counts(held)}
    each = max(1, most // max(len(found), 1))
    for artifact in held:
        if any(len(found[reason]) < each for reason in artifact.manifest.counts.rejected):
            for row in artifact.rejected().to_pylist():
                if len(found[row["reason"]]) < each:
                    found[row["reason"]].append(row)
    return [row for rows in found.values() for row in rows]


def _counts(artifacts: Iterable[Artifact]) -> dict[str, int]:
    """Reason → number of rows, the most frequent first."""
    return most_frequent_first(sum((Counter(each.manifest.counts.rejected) for each in artifacts), Counter[str]()))
