"""Flow `end_to_end`: raw images to evaluated weights."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Completed

from flows.caption import caption
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.parse import parse
from flows.pretrain import pretrain
from flows.session import session_of
from flows.shard import shard
from flows.summary import publish_summary
from flows.tag import tag
from flows.tasks import CACHED
from flows.train_tagger import train_tagger
from pipeline.report.steps import Outcome
from pipeline.run.conclude import conclude
from pipeline.run.recipe import Recipe

STAGES = (ingest, caption, parse, train_tagger, tag, shard, pretrain, evaluate)
"""The stages' flows, each after those that it reads from."""


@flow(name="end_to_end", flow_run_name="{recipe.name}", persist_result=False)
def end_to_end(recipe: Recipe) -> State[Outcome]:
    """Raw images to evaluated weights: every stage of the recipe, cached where the store has it, computed where not."""
    with session_of(recipe) as session:
        asked = {step.stage.name for step in session.chain.steps}
        for stage in STAGES:
            if stage.name in asked:
                stage(recipe, return_state=True).result()
        outcome = Outcome(recipe.name, [session.steps[step.name] for step in session.chain.steps])
        publish_summary(recipe, session.chain.run, outcome)
        if session.reports:
            conclude(recipe, session.chain.run, outcome)
    made = outcome.computed
    return Completed(name=None if made else CACHED, message=f"{made} partitions made", data=outcome)
