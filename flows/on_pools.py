"""Flow `on_pools`: the chain as one flow run per stage, each in the work pool of its deployment."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import cast

import httpx
from prefect import State, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import WorkerFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.chain import conclude_run
from flows.liveness import alive
from flows.parameters import FIRST, RecipeParameter, StartStage
from flows.session import require_allowed
from flows.stages import split_stages
from pipeline.report.steps import RunOutcome
from pipeline.run.dag import build_steps
from pipeline.run.recipe import Recipe
from storage.errors import FatalError
from storage.open_store import open_store

LOOK_EVERY = 2.0
"""Seconds between checks of a stage's flow run."""


@flow(name="on_pools", flow_run_name="{recipe.name}", persist_result=False)
def on_pools(recipe: RecipeParameter, start: StartStage = FIRST) -> State[RunOutcome]:
    """Run the chain stage by stage in the pools cpu, gpu and train. All workers must see the same store and data.

    Raises `FatalError` before any stage runs when a deployment, pool or worker is missing, the run would deadlock, or
    each pool would choose its own precision.
    """
    if automatic := [step.name for step in build_steps(recipe) if getattr(step.settings, "precision", None) == "auto"]:
        raise FatalError(
            f"{', '.join(automatic)}: precision = 'auto' is chosen by each machine, and the pools would look for "
            "different keys; set 'bfloat16' or 'float32' in these sections"
        )
    names = [f"{stage.name}/{stage.name}" for stage in split_stages(recipe, start)[1]]
    require_allowed(recipe, os.environ)
    own = cast(FlowRun, cast(FlowRunContext, FlowRunContext.get()).flow_run)
    with get_client(sync_client=True) as client:
        _require_pools(client, own, names)
        with alive(open_store(recipe.store), own.id):
            for name in names:
                _run(client, name, recipe)
    return conclude_run(recipe)


def _require_pools(client: SyncPrefectClient, own: FlowRun, deployments: Sequence[str]) -> None:
    """Raise `FatalError` unless each deployment exists and its pool has a worker, is not paused, and has a slot to
    spare besides that of `own`, this flow run."""
    first: dict[str, str] = {}
    for name in deployments:
        first.setdefault(_pool_of(client, name), name)
    for pool, deployment in first.items():
        # It holds a slot of its own pool while it waits for the stages.
        _require_pool(client, pool, deployment, taken=1 if pool == own.work_pool_name else 0)


def _pool_of(client: SyncPrefectClient, name: str) -> str:
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise FatalError(
            f"the server has no deployment {name}: create all of them (prefect --no-prompt deploy --all, see "
            "prefect.yaml)"
        ) from error
    if deployment.work_pool_name is None:
        raise FatalError(f"deployment {name} has no work pool; deploy it again with prefect.yaml")
    return deployment.work_pool_name


def _require_pool(client: SyncPrefectClient, name: str, deployment: str, taken: int) -> None:
    """Raise `FatalError` unless the pool can start a run, besides `taken` slots that this flow run holds."""
    pool = client.read_work_pool(name)
    if pool.is_paused:
        raise FatalError(f"work pool {name} of {deployment} is paused: prefect work-pool resume {name}")
    limit = pool.concurrency_limit
    if limit is not None and limit <= taken:
        why = "this run holds it while it waits for that one" if taken else "so that nothing starts in it"
        raise FatalError(
            f"work pool {name} of {deployment} has a concurrency limit of {limit}, and {why}: it would wait forever. "
            f"Raise the limit (prefect work-pool set-concurrency-limit {name} {taken + 1})"
            + (", or deploy on_pools in another pool" if taken else "")
        )
    online = WorkerFilter.model_validate({"status": {"any_": ["ONLINE"]}})
    if not client.read_workers_for_work_pool(name, worker_filter=online):
        raise FatalError(
            f"work pool {name} of {deployment} has no worker online: start one (prefect worker start --pool {name}). "
            f"It runs at least {taken + 1} flow run(s) at a time (--limit)"
        )


def _run(client: SyncPrefectClient, deployment: str, recipe: Recipe) -> None:
    """Run a deployment to its end. Raises `FatalError` if it does not complete; cancels it when this run is stopped."""
    run = cast(FlowRun, run_deployment(deployment, parameters={"recipe": recipe.model_dump(mode="json")}, timeout=0))
    state = run.state
    try:
        while state is None or not state.is_final():
            time.sleep(LOOK_EVERY)
            try:  # the stage goes on without the server, and so does the wait for it
                state = client.read_flow_run(run.id).state
            except httpx.TransportError:
                continue
            except httpx.HTTPStatusError as error:  # a proxy's answer, when no server is behind it
                if not error.response.is_server_error:
                    raise
    except BaseException:
        client.set_flow_run_state(run.id, Cancelling(message="the run that waited for it was stopped"))
        raise
    if state.type is not StateType.COMPLETED:
        raise FatalError(
            f"{deployment}: flow run {run.name!r} ended {state.name}: {state.message} "
            f"Committed results are kept; run again with start = {deployment.partition('/')[0]!r}"
        )
