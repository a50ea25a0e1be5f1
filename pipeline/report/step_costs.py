"""What the steps of a run cost per image, from its manifests, and how that compares with an estimate made before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.stages.order import chain_order
from storage.artifact import Artifact
from storage.runs import Run

ESTIMATE = "estimate"
"""Name of the note in which a run keeps the estimate that was made for it."""


@dataclass(frozen=True)
class StepCost:
    """What a step cost. Images are those that it processed; a training run counts an image once for each time that it sees it."""

    step: str
    images: int
    seconds_per_image: float
    """Compute time, summed over workers."""
    bytes_per_image: float | None
    """Size of the artifacts; None for a step over whole datasets, whose size does not follow from the images."""
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    """Devices of training runs, as their manifests tell; other stages tell none."""
    settings: Mapping[str, Any]
    """The row settings of its first artifact."""

    @classmethod
    def of(cls, step: str, artifacts: Iterable[Artifact]) -> StepCost | None:
        """The cost of a step; None where no image was processed."""
        manifests = [artifact.manifest for artifact in artifacts]
        seen = sum(manifest.facts.get("images_seen", manifest.counts.rows_in) for manifest in manifests)
        rows = sum(manifest.counts.rows_in for manifest in manifests)
        if not seen:
            return None
        size = sum(entry.size for manifest in manifests for entry in manifest.files.values())
        return cls(
            step=step,
            images=seen,
            seconds_per_image=sum(manifest.seconds for manifest in manifests) / seen,
            bytes_per_image=size / rows if rows and manifests[0].partition != "all" else None,
            hosts=tuple(sorted({manifest.host for manifest in manifests})),
            devices=tuple(sorted({manifest.facts["device"] for manifest in manifests if "device" in manifest.facts})),
            settings=manifests[0].terms.get("settings", {}),
        )


def step_costs(run: Run) -> dict[str, StepCost]:
    """Step → cost, in the order of the chain, for the steps of a run that processed images."""
    costs = {step: StepCost.of(step, run.artifacts(step).values()) for step in sorted(run.steps(), key=chain_order)}
    return {step: cost for step, cost in costs.items() if cost is not None}


@dataclass(frozen=True)
class ScoredEstimate:
    """The estimate of one step beside what the step took."""

    step: str
    images: int
    """Images that the estimate was made for."""
    estimated: float
    """Seconds per image."""
    actual: float | None
    """Seconds per image over all partitions that the run has; None before it has any."""

    @property
    def ratio(self) -> float | None:
        """Actual by estimated; None before the step is done."""
        return self.actual / self.estimated if self.actual is not None and self.estimated else None


def scored_estimate(run: Run) -> list[ScoredEstimate]:
    """The steps of the estimate that was noted with a run; none where none was made."""
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
