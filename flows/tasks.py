"""The two tasks: a block of partitions on the workers of the engine, and a whole-set step in the flow run's thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event
from typing import Any

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Cancelled, Completed

from pipeline.run.planner import Planner, StepPlan
from pipeline.run.progress import Display
from pipeline.run.runner import execute_whole
from pipeline.runtime.engines.engine import Engine
from pipeline.runtime.execute import Record, WorkItem
from storage.errors import RetryableError


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

    def __str__(self) -> str:
        return f"{self.step} {self.first}" + (f" to {self.last}" if self.last != self.first else "")


def split_into_blocks(plan: StepPlan, most: int, stop: Event) -> list[Block]:
    """Group the partitions of a step into at most `most` blocks of about equal size; one block if nothing is due.

    Each block is a task run, and Prefect displays only so many of them well.
    """
    due = {item.partition: item for item in plan.due}
    names = sorted([*due, *(record.partition for record in plan.cached)])
    count = min(most if due else 1, len(names))
    bounds = [len(names) * index // count for index in range(count + 1)] if count else []
    blocks = []
    for start, end in pairwise(bounds):
        items = [due[name] for name in names[start:end] if name in due]
        blocks.append(Block(plan.step.name, names[start], names[end - 1], end - start - len(items), items, stop))
    return blocks


def _is_retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), RetryableError)


# The store decides what is done: Prefect's cache would trust artifacts that no longer exist, and its results are
# pickles.
_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 2,
    "retry_delay_seconds": [2, 10],
    "retry_condition_fn": _is_retryable,
    "task_run_name": "{name}",
}


@task(**_OPTIONS)
def run_block(name: str, block: Block, engine: Engine, display: Display) -> State[list[Record]]:
    """Process the items of a block on `engine` and wait for all of them; on a retry, only those that failed."""
    failures: list[RetryableError] = []
    if not block.stop.is_set():
        waiting = [item for item in block.due if item.partition not in block.records]
        for future in as_completed([engine.submit(item) for item in waiting]):
            try:
                record = future.result()
            except RetryableError as error:
                failures.append(error)
            else:
                block.records[record.partition] = record
                display.finished(record)
    if block.stop.is_set():
        return Cancelled(message="stopped before it finished")
    if failures:
        raise failures[0]
    return _completed(list(block.records.values()), block.cached)


@task(**_OPTIONS)
def run_whole(name: str, planner: Planner, plan: StepPlan, display: Display) -> State[list[Record]]:
    """Process a whole-set step. Call it instead of submitting it, because signals reach only the main thread."""
    return _completed([execute_whole(planner, plan, display)] if plan.due else [], len(plan.cached))


def _completed(records: list[Record], cached: int) -> State[list[Record]]:
    message = f"{cached} cached, {len(records)} computed, {sum(record.rows_out for record in records)} rows"
    return completed(len(records), message, records)


def completed(computed: int, message: str, data: Any) -> State[Any]:
    """The state of a successful task or flow run: named `Cached` if it found everything in the store."""
    return Completed(name=None if computed else "Cached", message=message, data=data)
