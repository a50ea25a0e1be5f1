"""Flow `ingest`: annotation files and images to checked rows."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="ingest", flow_run_name="ingest {recipe.name}", persist_result=False)
def ingest(recipe: Recipe) -> State[list[StepOutcome]]:
    """Read the recipe's data sets: images and boxes, checked; broken rows go to quarantine with a reason."""
    return run_stage(recipe, "ingest")
