"""The two tasks: a block of partitions on the workers of the engine, and a whole-set step in the thread of the flow run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from typing import Any

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Cancelled, Completed

from flows.block import Block
from pipeline.run.planner import Planner, StepPlan
from pipeline.run.progress import Display
from pipeline.run.runner import execute_whole
from pipeline.runtime.engines.engine import Engine
from pipeline.runtime.execute import Record
from storage.errors import RetryableError

CACHED = "Cached"
"""Name of the final state of a run that found everything in the store."""


def is_retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry a failed task."""
    return isinstance(state.result(raise_on_failure=False), RetryableError)


# The store decides what is done: Prefect's cache would trust artifacts that no longer exist, and its results are pickles.
_OURS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 2,
    "retry_delay_seconds": [2, 10],
    "retry_condition_fn": is_retryable,
    "task_run_name": "{name}",
}


@task(**_OURS)
def run_block(name: str, block: Block, engine: Engine, display: Display) -> State[list[Record]]:
    """Process the items of a block on `engine` and wait for all of them; on a retry, only those that failed."""
    if block.stop.is_set():
        return Cancelled(message="stopped before it finished")
    failures: list[RetryableError] = []
    for future in as_completed([engine.submit(item) for item in block.waiting]):
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
    made = list(block.records.values())
    return ended(made, block.cached)


@task(**_OURS)
def run_whole(name: str, planner: Planner, plan: StepPlan, display: Display) -> State[list[Record]]:
    """Process a whole-set step. Call it, do not submit it: signals reach the main thread only."""
    return ended([execute_whole(planner, plan, display)] if plan.due else [], len(plan.cached))


def ended(made: Sequence[Record], cached: int) -> State[list[Record]]:
    """The state of a successful task: named `Cached` if nothing was computed."""
    message = f"{cached} cached, {len(made)} computed, {sum(record.rows_out for record in made)} rows"
    return Completed(name=None if made else CACHED, message=message, data=list(made))
