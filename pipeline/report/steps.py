"""What each step of a run did: the outcome of this run, and what the manifests recorded earlier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.runs import Run


@dataclass(frozen=True)
class StepOutcome:
    """A step's line in the stage table. `rejected` counts quarantined rows and items, `rate` is images per second."""

    step: str
    partitions: int
    cached: int | None
    """Partitions found in the store; None when only the record of a run is at hand."""
    rows_in: int
    rows_out: int
    rejected: int
    seconds: float
    """Wall time of this run, or, if `recorded`, working time summed over the workers of an earlier one."""
    rate: float
    recorded: bool = False
    """Whether seconds and rate are those of the earlier computation."""

    def as_json(self) -> dict[str, Any]:
        """The line as plain values."""
        return asdict(self)


@dataclass
class Outcome:
    """A finished run."""

    run: str
    steps: list[StepOutcome] = field(default_factory=list)

    @property
    def computed(self) -> int:
        """Partitions that were not cached."""
        return sum(step.partitions - (step.cached or 0) for step in self.steps)

    def as_rows(self) -> list[dict[str, Any]]:
        """The steps as plain rows."""
        return [step.as_json() for step in self.steps]


@dataclass(frozen=True)
class StepSummary:
    """What the manifests of one recorded step add up to.

    `seconds` is working time summed over partitions, `rate` images per second of it. A training counts the images that it
    saw over all epochs.
    """

    step: str
    partitions: int
    rows_in: int
    rows_out: int
    rejected: Mapping[str, int]
    """Rejects by reason. A row may lose items and still come out, so these do not equal rows_in - rows_out."""
    seconds: float
    rate: float
    bytes: int
    facts: Mapping[str, Any]
    """What the stage measured: counts are summed over partitions, other numbers averaged, the rest kept where all agree."""
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, step: str, artifacts: Iterable[Artifact]) -> StepSummary:
        """Sum up the manifests of a step's artifacts."""
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

    def as_outcome(self, cached: int | None) -> StepOutcome:
        """The summary as a line of the stage table."""
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
    """Every recorded step of a run, in the order of the chain. Steps whose artifacts are gone have no partitions."""
    return [StepSummary.of(step, run.artifacts(step).values()) for step in sorted(run.steps(), key=chain_order)]


def stage_rows(steps: Sequence[StepSummary], outcome: Outcome | None) -> list[StepOutcome]:
    """The stage table. A step that this run computed shows its wall time, the others what their manifests recorded."""
    if outcome is None:
        return [step.as_outcome(None) for step in steps]
    recorded = {step.step: step for step in steps}
    return [
        recorded[line.step].as_outcome(line.cached)
        if line.cached == line.partitions and line.step in recorded
        else line
        for line in outcome.steps
    ]


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
