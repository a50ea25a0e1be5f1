"""Flow `tag`: triplets and boxes to scored relations."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="tag", flow_run_name="tag {recipe.name}", persist_result=False)
def tag(recipe: Recipe) -> State[list[StepOutcome]]:
    """Ground the triplets to pairs of boxes and let the Relation Tagger score them."""
    return run_stage(recipe, "tag")
