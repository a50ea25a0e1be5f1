"""Collects quarantined rows by step and reason, with a few offending values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.labels.label_funnel import most_frequent_first
from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.runs import Run

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
    counts: Counter[str] = Counter()
    for artifact in artifacts:
        counts.update(artifact.manifest.counts.rejected)
    return most_frequent_first(counts)
