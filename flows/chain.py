"""Runs the stages of a recipe one after the other, all of them or from one on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from prefect import State
from prefect.states import Completed

from flows.parameters import FIRST
from flows.report_link import headline_figures, publish_report_link
from flows.session import Session, session_of
from flows.stages import stage_flow
from flows.summary import publish_summary
from flows.tasks import CACHED
from pipeline.report.figures import figures_of
from pipeline.report.steps import Outcome
from pipeline.run.dag import build_steps
from pipeline.run.planner import Planner, StepPlan
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.run.runner import conclude, preload_imports, run_step
from pipeline.runtime.execute import Record
from pipeline.runtime.stage import Stage
from pipeline.stages.order import STAGES
from storage.errors import FatalError


def run_chain(recipe: Recipe, start: str = FIRST) -> State[Outcome]:
    """Run every stage of a recipe, or those from `start` on, and publish the outcome. Call it in a flow run.

    Raises `FatalError` when the recipe has no stage `start` or a stage before it is not wholly in the store.
    """
    with session_of(recipe) as session:
        before, after = cut_stages(recipe, start)
        adopt(session, before)
        preload_imports(step for step in session.planner.context.steps if step.stage in after)
        for stage in after:
            cast(State[Any], stage_flow(stage)(recipe, return_state=True)).result()
        return publish(session)


def conclude_run(recipe: Recipe) -> State[Outcome]:
    """Publish the outcome of a run that other flow runs have computed. Raises `FatalError` if anything of it is due."""
    with session_of(recipe) as session:
        adopt(session, cut_stages(recipe)[1])
        return publish(session)


def cut_stages(recipe: Recipe, start: str = FIRST) -> tuple[list[type[Stage]], list[type[Stage]]]:
    """The stages of a recipe before `start`, and those from there on. Raises `FatalError` for an unknown `start`."""
    asked = {step.stage.name for step in build_steps(recipe)}
    stages = [stage for stage in STAGES if stage.name in asked]
    names = [stage.name for stage in stages]
    if start not in names:
        raise FatalError(f"start = {start!r}: recipe {recipe.name!r} has no such stage; it has {', '.join(names)}")
    first = names.index(start)
    return stages[:first], stages[first:]


def adopt(session: Session, stages: Sequence[type[Stage]]) -> None:
    """Take the steps of stages from the store. Raises `FatalError` if anything of them is due."""
    names = {stage.name for stage in stages}
    for step in session.planner.context.steps:
        if step.stage.name in names:
            session.steps[step.name] = run_step(session.planner, step, session.display, refuse)


def refuse(planner: Planner, plan: StepPlan, display: Display) -> Sequence[Record]:
    """Compute nothing. Raises `FatalError` if the step has anything to compute."""
    if plan.due:
        raise FatalError(
            f"{plan.step.name}: {len(plan.due)} of {plan.partitions} partitions are not in {planner.context.recipe.store}, "
            f"and this run does not compute them: start at {plan.step.stage.name} or before, and use one store everywhere"
        )
    return []


def publish(session: Session) -> State[Outcome]:
    """Publish the outcome of all steps in Prefect, and as a report if the flow writes it. Returns the final state."""
    context = session.planner.context
    outcome = Outcome(context.recipe.name, [session.steps[step.name] for step in context.steps])
    publish_summary(context, outcome)
    publish_report_link(context.recipe, headline_figures(figures_of(context.view)))
    if session.reports:
        conclude(context, outcome)
    made = outcome.computed
    return Completed(name=None if made else CACHED, message=f"{made} partitions computed", data=outcome)
