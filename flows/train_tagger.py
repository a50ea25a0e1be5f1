"""Flow `train_tagger`: given relations to the Relation Tagger's weights."""

from __future__ import annotations

from prefect import State, flow

from flows.stage_flow import run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


@flow(name="train_tagger", flow_run_name="train_tagger {recipe.name}", persist_result=False)
def train_tagger(recipe: Recipe) -> State[list[StepOutcome]]:
    """Train the Relation Tagger on the sets whose relations are given; resumes from its last checkpoint."""
    return run_stage(recipe, "train_tagger")
