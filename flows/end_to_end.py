"""Flow `end_to_end`: raw images to evaluated weights."""

from __future__ import annotations

from typing import Any, cast

from prefect import State, flow
from prefect.states import Completed

from flows.report_link import headline_figures, publish_report_link
from flows.session import session_of
from flows.stages import STAGE_FLOWS
from flows.summary import publish_summary
from flows.tasks import CACHED
from pipeline.report.figures import figures_of
from pipeline.report.steps import Outcome
from pipeline.run.recipe import Recipe
from pipeline.run.runner import conclude


@flow(name="end_to_end", flow_run_name="{recipe.name}", persist_result=False)
def end_to_end(recipe: Recipe) -> State[Outcome]:
    """Run the whole chain from raw images to evaluated weights. What is in the store is reused, the rest is computed."""
    with session_of(recipe) as session:
        context = session.planner.context
        asked = {step.stage.name for step in context.steps}
        for stage in STAGE_FLOWS:
            if stage.name in asked:
                cast(State[Any], stage(recipe, return_state=True)).result()
        outcome = Outcome(recipe.name, [session.steps[step.name] for step in context.steps])
        publish_summary(context, outcome)
        publish_report_link(recipe, headline_figures(figures_of(context.view)))
        if session.reports:
            conclude(context, outcome)
    made = outcome.computed
    return Completed(name=None if made else CACHED, message=f"{made} partitions computed", data=outcome)
