"""Flow `on_pools`: the chain as one flow run per stage, each in the work pool of its deployment."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import cast

import httpx
from prefect import State, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.states import Cancelling

from flows.chain import conclude_run, cut_stages
from flows.parameters import FIRST, GivenRecipe, StartStage
from flows.pool_check import require_pools
from pipeline.report.steps import Outcome
from pipeline.run.dag import build_steps
from pipeline.run.recipe import Recipe
from storage.errors import FatalError

LOOK_EVERY = 2.0
"""Seconds between two looks at the state of a stage's flow run."""


@flow(name="on_pools", flow_run_name="{recipe.name}", persist_result=False)
def on_pools(recipe: GivenRecipe, start: StartStage = FIRST) -> State[Outcome]:
    """Run the chain stage by stage in the pools cpu, gpu and train. All workers must see the same store and data.

    Raises `FatalError` before any stage runs when a deployment, pool or worker is missing, the run would deadlock, or each
    pool would choose a precision of its own.
    """
    if chosen := [step.name for step in build_steps(recipe) if getattr(step.settings, "precision", None) == "auto"]:
        raise FatalError(
            f"{', '.join(chosen)}: precision = 'auto' is chosen by each machine, and the pools would look for different keys; "
            "set 'bfloat16' or 'float32' in these sections"
        )
    names = [f"{stage.name}/{stage.name}" for stage in cut_stages(recipe, start)[1]]
    with get_client(sync_client=True) as client:
        require_pools(client, names)
        for name in names:
            _run(client, name, recipe)
    return conclude_run(recipe)


def _run(client: SyncPrefectClient, deployment: str, recipe: Recipe) -> None:
    """Run a deployment to its end. Raises `FatalError` if it does not complete; cancels it when this run is stopped."""
    run = cast(FlowRun, run_deployment(deployment, parameters={"recipe": recipe.model_dump(mode="json")}, timeout=0))
    state = run.state
    try:
        while state is None or not state.is_final():
            time.sleep(LOOK_EVERY)
            with suppress(httpx.TransportError):  # the stage goes on without the server, and so does the wait for it
                state = client.read_flow_run(run.id).state
    except BaseException:
        client.set_flow_run_state(run.id, Cancelling(message="the run that waited for it was stopped"))
        raise
    if state.type is not StateType.COMPLETED:
        raise FatalError(
            f"{deployment}: flow run {run.name!r} ended {state.name}: {state.message} "
            f"What it committed is kept; run again with start = {deployment.partition('/')[0]!r}"
        )
