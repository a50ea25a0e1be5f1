"""One flow per stage, which plans the steps of the stage and executes them block by block.

Its two tasks are a block of partitions on the engine's workers, and a whole-set step in the flow run's thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from threading import Event
from typing import Any, cast

from prefect import Flow, State, Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.artifacts import ProgressArtifact, emit_step_completed, publish_stage
from flows.parameters import RecipeParameter
from flows.session import session_of
from pipeline.report.steps import StepOutcome
from pipeline.run.dag import build_steps
from pipeline.run.planner import Planner, StepPlan
from pipeline.run.progress import Display, Displays
from pipeline.run.recipe import Recipe
from pipeline.run.runner import execute_whole, open_engine, run_step
from pipeline.runtime.engines.engine import Engine
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.stage import Stage
from pipeline.stages.order import STAGES
from storage.errors import FatalError, RetryableError

LIMIT = "gpu"
"""Name of the concurrency limit; it counts the GPUs that workers of this server share."""

VARIABLE = "RLIP_GPU_SLOTS"
"""Environment variable with the number of slots that a step takes; unset, e.g. in `rlip run`: none."""

LEASE = 60.0
"""Seconds after which the server frees the slots of a process that died."""


@contextmanager
def gpu_slots(stage: type[Stage], environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Hold the slots that the environment asks for while a step of `stage` computes.

    Raises `FatalError` first if the server has no limit `gpu`, or one that never grants this many slots.
    """
    wanted = environment.get(VARIABLE, "")
    if not stage.uses_gpu or not wanted:
        yield
        return
    if not wanted.isdecimal() or int(wanted) < 1:
        raise FatalError(
            f"{VARIABLE} = {wanted!r}: set it to the number of GPU slots per step, at least 1, or unset it"
        )
    _require_limit(int(wanted))
    # A server that restarts forgets its leases. That is no reason to stop a training run: it goes on without its slot.
    with concurrency(
        LIMIT, occupy=int(wanted), lease_duration=LEASE, strict=True, raise_on_lease_renewal_failure=False
    ):
        yield


def _require_limit(wanted: int) -> None:
    """Raise `FatalError` unless the server's limit can grant `wanted` slots."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound as error:
            raise FatalError(
                f"{VARIABLE} = {wanted}, but the server has no concurrency limit {LIMIT!r}: create it with the number "
                f"of GPUs (prefect global-concurrency-limit create {LIMIT} --limit {wanted}), or unset {VARIABLE}"
            ) from error
    if not limit.active or limit.limit >= wanted:
        return
    raise FatalError(
        f"{VARIABLE} = {wanted}, but the server's concurrency limit {LIMIT!r} is {limit.limit}, so a step would wait "
        f"forever: raise it (prefect global-concurrency-limit update {LIMIT} --limit {wanted}) or lower {VARIABLE}"
    )


@cache
def stage_flow(stage: type[Stage]) -> Flow[[Recipe], Any]:
    """Create the flow of a stage, with the name of the stage."""

    @flow(
        name=stage.name, flow_run_name=f"{stage.name} {{recipe.name}}", description=stage.__doc__, persist_result=False
    )
    def run(recipe: RecipeParameter) -> State[list[StepOutcome]]:
        split_stages(recipe, stage.name)  # refuses a stage that the recipe does not have
        return run_stage(recipe, stage.name)

    return run


def __getattr__(name: str) -> Flow[[Recipe], Any]:
    """Return the flow of a stage. Deployments refer to it as an attribute of this module.

    Prefect executes this file for each deployment and each flow run, and spends a tenth of a second on every flow that
    it creates, so this creates only the flow that it is asked for.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage_flow(stage)
    raise AttributeError(f"no stage {name!r}")


def split_stages(recipe: Recipe, start: str) -> tuple[list[type[Stage]], list[type[Stage]]]:
    """The stages of a recipe before `start`, and those from there on. Raises `FatalError` for an unknown `start`."""
    used = {step.stage.name for step in build_steps(recipe)}
    stages = [stage for stage in STAGES if stage.name in used]
    names = [stage.name for stage in stages]
    if start not in names:
        raise FatalError(f"stage {start!r}: recipe {recipe.name!r} has no such stage; it has {', '.join(names)}")
    first = names.index(start)
    return stages[:first], stages[first:]


def run_stage(recipe: Recipe, stage: str) -> State[list[StepOutcome]]:
    """Run the steps of a stage, one per variant and seed. The steps that they read must be done.

    Raises a `FatalError` that names the step which must run first, and whatever a step raises.
    """
    with session_of(recipe, (stage,)) as session:
        planner = session.planner
        _require_above(planner, stage)
        steps = [step for step in planner.context.steps if step.stage.name == stage]
        outcomes = []
        for step in steps:
            artifact = ProgressArtifact(recipe.name)
            display = Displays(session.display, artifact)
            outcomes.append(run_step(planner, step, display, partial(_work_in_tasks, artifact)))
            session.steps[step.name] = outcomes[-1]
            emit_step_completed(recipe, outcomes[-1])
        publish_stage(recipe, outcomes)
    computed = sum(outcome.partitions - (outcome.cached or 0) for outcome in outcomes)
    message = f"{computed} of {sum(outcome.partitions for outcome in outcomes)} partitions computed"
    return completed(computed, message, outcomes)


def _require_above(planner: Planner, stage: str) -> None:
    """Find the artifacts that a stage's steps read. Raises `FatalError` if any is missing or an audit refuses them."""
    context = planner.context
    needed: set[str] = set()
    for step in reversed(context.steps):
        if step.stage.name == stage or step.name in needed:
            needed |= step.needs
    for step in context.steps:
        if step.name not in needed or step.name in planner.done:
            continue
        due = len(planner.plan(step).due)
        if due:
            raise FatalError(
                f"{stage} of recipe {context.recipe.name!r} reads {step.name}, of which {due} partitions are due: "
                f"run the deployment {step.stage.name} or end_to_end first"
            )
        planner.audit(step)


def _work_in_tasks(artifact: ProgressArtifact, planner: Planner, plan: StepPlan, display: Display) -> Sequence[Record]:
    """Execute the due items of a step in Prefect tasks. If none are due, one task ends in state `Cached`."""
    with gpu_slots(plan.step.stage) if plan.due else nullcontext():
        if plan.step.stage.whole:
            # Quoted, so that Prefect does not search these objects for futures.
            arguments = (plan.step.name, quote(planner), quote(plan), quote(display))
            return cast(list[Record], run_whole(*arguments, return_state=True).result())
        return _in_blocks(artifact, planner, plan, display)


def _in_blocks(artifact: ProgressArtifact, planner: Planner, plan: StepPlan, display: Display) -> list[Record]:
    """Execute a step block by block while showing the progress. Raises what the first failed block raised."""
    run, stop = planner.context.recipe.run, Event()
    # One more thread than workers, so that no worker is idle between two blocks. The engine closes first and ends its
    # items, so that the task runner has nothing to wait for.
    opened = open_engine(planner, plan, display)
    pool: ThreadPoolTaskRunner[State[list[Record]]] = ThreadPoolTaskRunner(
        max_workers=min(opened.workers, run.blocks) + 1
    )
    records: list[Record] = []
    with pool as runner, opened as engine:
        try:
            running: set[Future[State[list[Record]]]] = {
                runner.submit(
                    run_block,
                    {"name": str(block), "block": quote(block), "engine": quote(engine), "display": quote(display)},
                ).wrapped_future
                for block in split_into_blocks(plan, run.blocks, stop)
            }
            while running:
                finished, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in finished:
                    records += future.result().result()
                artifact.pulse()
        except BaseException:
            stop.set()
            raise
    return records


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
    """Group a step's partitions into at most `most` blocks of about equal size; one block if nothing is due.

    Each block is a task run, and Prefect displays only a limited number of them well.
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


# The store decides what is done: Prefect's cache would trust artifacts that are gone, and its results are pickles.
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
    fresh = sum(not record.cached for record in records)
    rows = sum(record.rows_out for record in records)
    return completed(fresh, f"{cached + len(records) - fresh} cached, {fresh} computed, {rows} rows", records)


def completed(computed: int, message: str, data: Any) -> State[Any]:
    """The state of a successful task or flow run: named `Cached` if it found everything in the store."""
    return Completed(name=None if computed else "Cached", message=message, data=data)
