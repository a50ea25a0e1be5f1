"""What every stage's flow does: plan the stage's steps and work them, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Event
from typing import cast

from prefect import State
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.block import cut_blocks
from flows.session import session_of
from flows.tasks import CACHED, work_block, work_whole
from flows.watched import Watched
from pipeline.report.steps import StepOutcome
from pipeline.run.planner import Chain, StepPlan
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.run.runner import open_engine, run_step
from pipeline.runtime.execute import Record
from storage.errors import Terminal


def run_stage(recipe: Recipe, stage: str) -> State[list[StepOutcome]]:
    """Carry out a stage's steps (one for each arm and seed). The steps that they read must be done.

    Raises `Terminal` that names the stages which are due above, and whatever a step raises.
    """
    with session_of(recipe) as session:
        chain = session.chain
        require_above(chain, stage)
        outcomes = []
        for step in chain.steps:
            if step.stage.name == stage:
                outcomes.append(run_step(chain, step, Watched(session.display, recipe.name), work_in_tasks))
                session.steps[step.name] = outcomes[-1]
    made = sum(outcome.partitions - outcome.cached for outcome in outcomes)
    message = f"{made} of {sum(outcome.partitions for outcome in outcomes)} partitions made"
    return Completed(name=None if made else CACHED, message=message, data=outcomes)


def require_above(chain: Chain, stage: str) -> None:
    """Find the artifacts that the stage's steps read. Raises `Terminal` when some are not in the store yet or refused."""
    needed: set[str] = set()
    for step in reversed(chain.steps):
        if step.stage.name == stage or step.name in needed:
            needed.update(name for names in (*step.reads.values(), *step.uses.values()) for name in names)
    for step in chain.steps:
        if step.name not in needed or step.name in chain.done:
            continue
        due = len(chain.plan(step).due)
        if due:
            raise Terminal(
                f"{stage} of recipe {chain.recipe.name!r} reads {step.name}, of which {due} partitions are due: "
                f"run the deployment {step.stage.name}/rlip or end_to_end/rlip first"
            )
        chain.judge(step)


def work_in_tasks(chain: Chain, plan: StepPlan, display: Display) -> Sequence[Record]:
    """Work a step's due items in Prefect tasks; one task says `Cached` where there are none."""
    if plan.step.stage.whole:
        given = (plan.step.name, quote(chain), quote(plan), quote(display))
        return cast(list[Record], work_whole(*given, return_state=True).result())
    stop = Event()
    threads = chain.recipe.run.workers + 1  # one more than workers, so that none idles between two blocks
    # The engine is left first: that ends its items, so that the task runner has nothing to wait for.
    pool: ThreadPoolTaskRunner[State[list[Record]]] = ThreadPoolTaskRunner(max_workers=threads)
    with pool as runner, open_engine(chain, plan, display) as engine:
        running = {
            runner.submit(
                work_block,
                {"name": str(block), "block": quote(block), "engine": quote(engine), "display": quote(display)},
            ).wrapped_future
            for block in cut_blocks(plan, chain.recipe.run.blocks, stop)
        }
        try:
            return gather(running, display)
        except BaseException:
            stop.set()
            raise


def gather(running: set[Future[State[list[Record]]]], display: Display) -> list[Record]:
    """Wait for the blocks and show how far they are. Raises what the first failed block raised."""
    records: list[Record] = []
    while running:
        finished, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
        for future in finished:
            records += future.result().result()
        if isinstance(display, Watched):
            display.pulse()
    return records
