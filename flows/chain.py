"""Flows `end_to_end` and `from_file`: run the stages of a recipe in order, from the first or a later one."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

from prefect import State, flow

from flows.artifacts import publish_run
from flows.parameters import FIRST, RecipeParameter, StartStage, described
from flows.session import Session, session_of
from flows.stages import completed, split_stages, stage_flow
from pipeline.report.steps import RunOutcome
from pipeline.run.planner import Planner, StepPlan
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import conclude, run_step, settle
from pipeline.runtime.execute import Record
from pipeline.runtime.stage import Stage
from storage.errors import FatalError


@flow(name="end_to_end", flow_run_name="{recipe.name}", persist_result=False)
def end_to_end(recipe: RecipeParameter, start: StartStage = FIRST) -> State[RunOutcome]:
    """Run the whole chain from raw images to evaluated weights. Results in the store are reused."""
    return run_chain(recipe, start)


@flow(name="from_file", flow_run_name="{recipe_file}", persist_result=False)
def from_file(
    recipe_file: Annotated[Path, described("A recipe file on the worker's machine, or the name of a built-in recipe.")],
    overrides: Annotated[tuple[str, ...], described("Settings to override, e.g. run.workers=4.")] = (),
    start: StartStage = FIRST,
) -> State[RunOutcome]:
    """Run the chain with a recipe file on the worker's machine. A schedule reads the file again at every run.

    Raises `FatalError` when the file is missing or not a valid recipe.
    """
    try:
        recipe = load_recipe(recipe_file, overrides)
    except FatalError as error:
        raise FatalError(
            f"recipe_file = {recipe_file} on {platform.node()}: {error}. Restore the recipe, or change this parameter "
            "of the deployment or schedule"
        ) from error
    return run_chain(recipe, start)


def run_chain(recipe: Recipe, start: str) -> State[RunOutcome]:
    """Run the stages of a recipe from `start` on, and publish the outcome.

    Raises `FatalError` when the recipe has no stage `start` or a stage before it is not wholly in the store.
    """
    before, stages = split_stages(recipe, start)
    with session_of(recipe, [stage.name for stage in stages]) as session:
        _adopt(session, before)
        for stage in stages:
            cast(State[Any], stage_flow(stage)(recipe, return_state=True)).result()
        return _publish(session)


def conclude_run(recipe: Recipe) -> State[RunOutcome]:
    """Publish the outcome of a run that other flow runs have computed. Raises `FatalError` if a partition is due."""
    with session_of(recipe) as session:
        _adopt(session, split_stages(recipe, FIRST)[1])
        return _publish(session)


def _adopt(session: Session, stages: Sequence[type[Stage]]) -> None:
    """Take the steps of stages from the store. Raises `FatalError` if a partition is due."""
    for step in session.planner.context.steps:
        if step.stage in stages:
            session.steps[step.name] = run_step(session.planner, step, session.display, _refuse)


def _refuse(planner: Planner, plan: StepPlan, display: Display) -> Sequence[Record]:
    """Compute nothing. Raises `FatalError` if the step has anything to compute."""
    if plan.due:
        raise FatalError(
            f"{plan.step.name}: {len(plan.due)} of {plan.partitions} partitions are not in "
            f"{planner.context.recipe.store}, and this run does not compute them: start at {plan.step.stage.name} or "
            "earlier, and use one store everywhere"
        )
    return []


def _publish(session: Session) -> State[RunOutcome]:
    """Publish the outcome of all steps in Prefect, and as a report if the flow writes it. Returns the final state."""
    context = session.planner.context
    outcome = RunOutcome(context.recipe.name, [session.steps[step.name] for step in context.steps])
    settle(context, outcome)  # the figures that are published depend on the recipe
    publish_run(context, outcome)
    if session.reports:
        conclude(context, outcome)
    return completed(outcome.computed, f"{outcome.computed} partitions computed", outcome)
