"""Flow `end_to_end`: raw images to evaluated weights."""

from __future__ import annotations

from prefect import State, flow

from flows.chain import StartStage, run_chain
from pipeline.report.steps import Outcome
from pipeline.run.recipe import Recipe


@flow(name="end_to_end", flow_run_name="{recipe.name}", persist_result=False)
def end_to_end(recipe: Recipe, start: StartStage = None) -> State[Outcome]:
    """Run the whole chain from raw images to evaluated weights. What is in the store is reused, the rest is computed."""
    return run_chain(recipe, start)
