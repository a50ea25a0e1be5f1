"""Collects quarantined rows by step and reason, with a few offending values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.runs import Run

EXAMPLES = 3


class Example(NamedTuple):
    """A quarantined row."""

    image_id: int
    value: str


@dataclass(frozen=True)
class Quarantined:
    """Count and examples of one reason in one step."""

    step: str
    reason: str
    count: int
    examples: tuple[Example, ...]


def quarantine(run: Run) -> list[Quarantined]:
    """All reasons of all steps, in DAG order; within a step, the most frequent reason comes first."""
    return [found for step in sorted(run.steps(), key=chain_order) for found in _of_step(run, step)]


def sampled(artifacts: Iterable[Artifact], most: int) -> list[dict[str, Any]]:
    """Samples about `most` quarantined rows: equally many per reason, at least one; most frequent reason first."""
    held = [(artifact, artifact.manifest.counts.rejected) for artifact in artifacts]
    counts: Counter[str] = Counter()
    for _, reasons in held:
        counts.update(reasons)
    left = {
        reason: max(1, most // len(counts)) for reason in sorted(counts, key=lambda reason: (-counts[reason], reason))
    }
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in left}
    for artifact, reasons in held:
        if any(len(found[reason]) < left[reason] for reason in reasons):
            for row in artifact.rejected().to_pylist():
                if len(found[row["reason"]]) < left[row["reason"]]:
                    found[row["reason"]].append(row)
    return [row for rows in found.values() for row in rows]


def _of_step(run: Run, step: str) -> Sequence[Quarantined]:
    counts: dict[str, int] = {}
    examples: dict[str, list[Example]] = {}
    for artifact in run.artifacts(step).values():
        for reason, count in artifact.manifest.counts.rejected.items():
            counts[reason] = counts.get(reason, 0) + count
        for reason, example in _rows(artifact):
            kept = examples.setdefault(reason, [])
            if len(kept) < EXAMPLES:
                kept.append(example)
    ranked = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return [Quarantined(step, reason, counts[reason], tuple(examples.get(reason, ()))) for reason in ranked]


def _rows(artifact: Artifact) -> Iterator[tuple[str, Example]]:
    if artifact.manifest.counts.rejected:
        for row in artifact.rejected().to_pylist():
            yield row["reason"], Example(row["image_id"], row["value"])
