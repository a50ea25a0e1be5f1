"""Flow `end_to_end`: raw images to evaluated weights."""

from __future__ import annotations

from prefect import State, flow

from flows.chain import run_chain
from flows.parameters import FIRST, GivenRecipe, StartStage
from pipeline.report.steps import Outcome


@flow(name="end_to_end", flow_run_name="{recipe.name}", persist_result=False)
def end_to_end(recipe: GivenRecipe, start: StartStage = FIRST) -> State[Outcome]:
    """Run the whole chain from raw images to evaluated weights. What is in the store is reused, the rest is computed."""
    return run_chain(recipe, start)
