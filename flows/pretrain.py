"""Flow `pretrain`: shards to RLIPv2 weights."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="pretrain", flow_run_name="pretrain {recipe.name}", persist_result=False)
def pretrain(recipe: Recipe) -> State[list[StepOutcome]]:
    """Pre-train on the shards, once an arm and seed; resumes from its last checkpoint."""
    return run_stage(recipe, "pretrain")
