"""Flow `caption`: images to captions."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="caption", flow_run_name="caption {recipe.name}", persist_result=False)
def caption(recipe: Recipe) -> State[list[StepOutcome]]:
    """Caption every image to be labelled, with draws seeded by image."""
    return run_stage(recipe, "caption")
