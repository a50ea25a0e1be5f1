"""What a run came to: one line a step, in a form that prints, serialises and goes into artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.run.planner import StepPlan
from pipeline.runtime.execute import Record


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
