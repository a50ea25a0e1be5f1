"""Blocks: groups of the partitions of a step, few enough for Prefect to display well. Each group is one task run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event

from pipeline.run.planner import StepPlan
from pipeline.runtime.execute import Record, WorkItem


@dataclass
class Block:
    """A slice of the partitions of a step, in order. `records` collects the committed items, also over retries."""

    step: str
    first: str
    last: str
    cached: int
    due: Sequence[WorkItem]
    stop: Event
    """Set when the step is abandoned, so that nothing is retried."""
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def waiting(self) -> list[WorkItem]:
        """The items that have no record yet."""
        return [item for item in self.due if item.partition not in self.records]

    def __str__(self) -> str:
        return f"{self.step} {self.first}" + (f" to {self.last}" if self.last != self.first else "")


def cut_blocks(plan: StepPlan, most: int, stop: Event) -> list[Block]:
    """Group the partitions of a step into at most `most` blocks of about equal size; one block if nothing is due."""
    due = {item.partition: item for item in plan.due}
    names = sorted([*due, *(record.partition for record in plan.cached)])
    count = min(most, len(names)) if due else min(1, len(names))
    bounds = [len(names) * index // count for index in range(count + 1)] if count else []
    blocks = []
    for start, end in pairwise(bounds):
        items = [due[name] for name in names[start:end] if name in due]
        blocks.append(Block(plan.step.name, names[start], names[end - 1], end - start - len(items), items, stop))
    return blocks
