"""What each step of a run did: this run's outcome, and what the manifests recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.run.planner import StepPlan
from pipeline.runtime.execute import Record
from storage.artifact import Artifact
from storage.runs import Run

_ORDER = ("ingest", "caption", "parse", "train_tagger", "tag", "shard", "pretrain", "evaluate")


@dataclass(frozen=True)
class StepSummary:
    """A step's line. `seconds` is working time summed over partitions, `rate` images a second of it.

    A training counts the images that it saw over all epochs.
    """

    step: str
    partitions: int
    rows_in: int
    rows_out: int
    rejected: Mapping[str, int]
    """Rejects by reason. A row may lose items and still come out, so these are not rows_in - rows_out."""
    seconds: float
    rate: float
    bytes: int
    facts: Mapping[str, Any]
    """What the stage measured: counts summed over partitions, other numbers averaged, the rest where all agree."""
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, step: str, artifacts: Iterable[Artifact]) -> StepSummary:
        """Sum the manifests of a step's artifacts up."""
        manifests = [artifact.manifest for artifact in artifacts]
        rejected: Counter[str] = Counter()
        for manifest in manifests:
            rejected.update(manifest.counts.rejected)
        rows_in = sum(manifest.counts.rows_in for manifest in manifests)
        seen = sum(manifest.facts.get("images_seen", manifest.counts.rows_in) for manifest in manifests)
        seconds = sum(manifest.seconds for manifest in manifests)
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
        )

    def as_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)


def summaries(run: Run) -> list[StepSummary]:
    """Every recorded step of a run, in the order of the chain; steps whose artifacts are gone have no partitions."""
    return [StepSummary.of(step, run.artifacts(step).values()) for step in sorted(run.steps(), key=chain_order)]


def chain_order(step: str) -> tuple[int, str]:
    """Sorts step names as the chain runs them."""
    stage = step.split(":")[0]
    return (_ORDER.index(stage) if stage in _ORDER else len(_ORDER), step)


def _facts(facts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for each in facts for name in each):
        values = [each[name] for each in facts if name in each]
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            found[name] = sum(values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            found[name] = round(sum(values) / len(values), 4)
        elif all(value == values[0] for value in values):
            found[name] = values[0]
    return found


@dataclass(frozen=True)
class StepOutcome:
    """A step's line in the final table. `seconds` is wall time of this run, `rate` images a second (0: none worked)."""

    step: str
    partitions: int
    cached: int
    rows_in: int
    rows_out: int
    rejected: int
    seconds: float
    rate: float

    @classmethod
    def of(cls, plan: StepPlan, records: Sequence[Record], seconds: float) -> StepOutcome:
        """Sum a step's records up."""
        fresh = sum(record.seen for record in records if not record.cached)
        return cls(
            step=plan.step.name,
            partitions=plan.partitions,
            cached=len(plan.cached),
            rows_in=sum(record.rows_in for record in records),
            rows_out=sum(record.rows_out for record in records),
            rejected=sum(sum(record.rejected.values()) for record in records),
            seconds=round(seconds, 2),
            rate=round(fresh / seconds, 1) if fresh and seconds else 0.0,
        )


@dataclass
class Outcome:
    """A finished run."""

    run: str
    steps: list[StepOutcome] = field(default_factory=list)

    @property
    def computed(self) -> int:
        """Partitions that were not cached."""
        return sum(step.partitions - step.cached for step in self.steps)

    def as_rows(self) -> list[dict[str, Any]]:
        """The steps as plain rows."""
        return [asdict(step) for step in self.steps]


@dataclass(frozen=True)
class StageRow:
    """A line of the stage table. `rejected` counts quarantined rows and items; `rate` is rows read a second."""

    step: str
    partitions: int
    cached: int | None
    """Partitions found in the store; None when no run is at hand."""
    rows_in: int
    rows_out: int
    rejected: int
    seconds: float
    rate: float
    recorded: bool
    """True: seconds and rate are those of an earlier computation, summed over its workers."""

    def as_json(self) -> dict[str, Any]:
        """The line as plain values."""
        return asdict(self)


def stage_rows(steps: Sequence[StepSummary], outcome: Outcome | None) -> list[StageRow]:
    """One line a step. A step that this run computed shows its wall time, the others what their manifests recorded."""
    recorded = {step.step: step for step in steps}
    if outcome is None:
        return [_recorded(step, None) for step in steps]
    rows = []
    for line in outcome.steps:
        if line.cached == line.partitions and line.step in recorded:
            rows.append(_recorded(recorded[line.step], line.cached))
            continue
        rows.append(
            StageRow(
                step=line.step,
                partitions=line.partitions,
                cached=line.cached,
                rows_in=line.rows_in,
                rows_out=line.rows_out,
                rejected=line.rejected,
                seconds=line.seconds,
                rate=line.rate,
                recorded=False,
            )
        )
    return rows


def _recorded(step: StepSummary, cached: int | None) -> StageRow:
    return StageRow(
        step=step.step,
        partitions=step.partitions,
        cached=cached,
        rows_in=step.rows_in,
        rows_out=step.rows_out,
        rejected=sum(step.rejected.values()),
        seconds=step.seconds,
        rate=step.rate,
        recorded=True,
    )
