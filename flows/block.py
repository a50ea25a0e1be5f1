"""Blocks: a step's partitions in as few groups as Prefect shows well; a group is one task run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event

from pipeline.run.planner import StepPlan
from pipeline.runtime.execute import Record, WorkItem


@dataclass
class Block:
    """A slice of a step's partitions, in their order. `records` fills up as items are committed, also over retries."""

    step: str
    first: str
    last: str
    cached: int
    due: Sequence[WorkItem]
    stop: Event
    """Set when the step is given up: nothing is to be tried again."""
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def waiting(self) -> list[WorkItem]:
        """The items that still have no record."""
        return [item for item in self.due if item.partition not in self.records]

    def __str__(self) -> str:
        return f"{self.step} {self.first}" + (f" to {self.last}" if self.last != self.first else "")


def cut_blocks(plan: StepPlan, most: int, stop: Event) -> list[Block]:
    """The step's partitions in at most `most` blocks of about equal size; a step with nothing due is one block."""
    due = {item.partition: item for item in plan.due}
    names = sorted([*due, *(record.partition for record in plan.cached)])
    count = min(most, len(names)) if due else min(1, len(names))
    bounds = [len(names) * index // count for index in range(count + 1)] if count else []
    blocks = []
    for start, end in pairwise(bounds):
        items = [due[name] for name in names[start:end] if name in due]
        blocks.append(Block(plan.step.name, names[start], names[end - 1], end - start - len(items), items, stop))
    return blocks
