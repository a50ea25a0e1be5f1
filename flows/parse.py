"""Flow `parse`: captions to triplets."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="parse", flow_run_name="parse {recipe.name}", persist_result=False)
def parse(recipe: Recipe) -> State[list[StepOutcome]]:
    """Read subject-relation-object triplets out of the captions."""
    return run_stage(recipe, "parse")
