"""The stage table: a run's outcome where it worked, the manifests' record where everything was found in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.report.step_summary import StepSummary

if TYPE_CHECKING:
    from pipeline.report.outcome import Outcome


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
