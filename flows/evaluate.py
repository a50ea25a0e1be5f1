"""Flow `evaluate`: weights to scores."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="evaluate", flow_run_name="evaluate {recipe.name}", persist_result=False)
def evaluate(recipe: Recipe) -> State[list[StepOutcome]]:
    """Score the pre-trained weights on the test sets."""
    return run_stage(recipe, "evaluate")
