"""What the manifests of one recorded step say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
