"""Checks that the deployments a flow run will wait for can run at all: they exist, have workers, and can't deadlock with it."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import WorkerStatus
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from storage.errors import FatalError


def require_pools(client: SyncPrefectClient, deployments: Sequence[str]) -> None:
    """Raise `FatalError` unless each deployment exists and its pool has a worker, is not paused, and has a slot to spare."""
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    own = None if run is None or run.work_pool_name is None else run.work_pool_name
    first: dict[str, str] = {}
    for name in deployments:
        first.setdefault(_pool_of(client, name), name)
    for pool, deployment in first.items():
        _require_pool(client, pool, deployment, taken=1 if pool == own else 0)


def _pool_of(client: SyncPrefectClient, deployment: str) -> str:
    """Name of a deployment's work pool."""
    try:
        found = client.read_deployment_by_name(deployment)
    except ObjectNotFound as error:
        raise FatalError(
            f"the server has no deployment {deployment}: create all of them (prefect --no-prompt deploy --all, see prefect.yaml)"
        ) from error
    if found.work_pool_name is None:
        raise FatalError(f"deployment {deployment} has no work pool; deploy it again with prefect.yaml")
    return found.work_pool_name


def _require_pool(client: SyncPrefectClient, name: str, deployment: str, taken: int) -> None:
    """Raise `FatalError` unless the pool can start a run, besides `taken` slots that this flow run holds."""
    pool = client.read_work_pool(name)
    if pool.is_paused:
        raise FatalError(f"work pool {name} of {deployment} is paused: prefect work-pool resume {name}")
    limit = pool.concurrency_limit
    if limit is not None and limit <= taken:
        why = "this run holds it while it waits for that one" if taken else "so that nothing starts in it"
        raise FatalError(
            f"work pool {name} of {deployment} has a concurrency limit of {limit}, and {why}: it would wait for ever. Raise the "
            f"limit (prefect work-pool set-concurrency-limit {name} {taken + 1})"
            + (", or deploy on_pools in another pool" if taken else "")
        )
    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
    if not client.read_workers_for_work_pool(name, worker_filter=online):
        raise FatalError(
            f"work pool {name} of {deployment} has no worker online: start one (prefect worker start --pool {name}). "
            f"It runs at least {taken + 1} flow run(s) at a time (--limit)"
        )
