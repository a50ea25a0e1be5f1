"""Flow `shard`: images and labels to tar shards."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="shard", flow_run_name="shard {recipe.name}", persist_result=False)
def shard(recipe: Recipe) -> State[list[StepOutcome]]:
    """Write the shards that pre-training reads, for every kind of label that the recipe asks for."""
    return run_stage(recipe, "shard")
