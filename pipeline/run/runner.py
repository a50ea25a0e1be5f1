"""Run a recipe in this process and its workers, with no Prefect: the same steps, the same store, the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed

from pipeline.report.steps import Outcome, StepOutcome
from pipeline.run.dag import Step
from pipeline.run.planner import Chain, StepPlan
from pipeline.run.prepare import prepare
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.runtime.engines.local import LocalEngine, StageCall
from pipeline.runtime.execute import Record, carry_out

Work = Callable[[Chain, StepPlan, Display], Sequence[Record]]
"""How a runner works the due items of a step; it may do more than that, but gives their records."""


def run(recipe: Recipe, display: Display) -> Outcome:
    """Carry out every step of a recipe. Raises `PipelineError`; whatever was committed before stays and is found again."""
    prepare(recipe, display.drawing, display.reading)
    chain = Chain(recipe)
    return Outcome(recipe.name, [run_step(chain, step, display, work) for step in chain.steps])


def run_step(chain: Chain, step: Step, display: Display, work: Work) -> StepOutcome:
    """Plan a step, work what is due, and take the artifacts into the run. The steps above must be done."""
    plan = chain.plan(step)
    display.step(plan)
    began = time.monotonic()
    records = [*plan.cached, *work(chain, plan, display)]
    seconds = time.monotonic() - began
    chain.finish(step, records)
    display.done(plan, records, seconds)
    return StepOutcome.of(plan, records, seconds)


def work(chain: Chain, plan: StepPlan, display: Display) -> Sequence[Record]:
    """Work the due items of a step: whole-set stages here, partitions in the engine's workers."""
    if not plan.due:
        return []
    if plan.step.stage.whole:
        return [work_here(chain, plan, display)]
    with open_engine(chain, plan, display) as engine:
        records = []
        for future in as_completed([engine.submit(item) for item in plan.due]):
            records.append(future.result())
            display.finished(records[-1])
    return records


def open_engine(chain: Chain, plan: StepPlan, display: Display) -> LocalEngine:
    """The step's worker processes, no more than there are items due."""
    return LocalEngine(stage_call(chain, plan), min(chain.recipe.run.workers, len(plan.due)), display.progress)


def work_here(chain: Chain, plan: StepPlan, display: Display) -> Record:
    """Work a whole-set step in this process and thread, where signals reach its trainer."""
    (item,) = plan.due
    stage = stage_call(chain, plan).opened(chain.store)
    record = carry_out(stage, item, chain.store, lambda done, total, note="": display.progress(item, done, total, note))
    display.finished(record)
    return record


def stage_call(chain: Chain, plan: StepPlan) -> StageCall:
    """How a worker makes the step's stage."""
    step = plan.step
    folders = chain.recipe.data.image_folders()
    return StageCall(step.stage, step.settings, folders, chain.given(step), chain.store.address)
