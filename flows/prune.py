"""Flow `prune`: deletes the Prefect server's records of old runs. The store and its runs are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from pydantic import Field

from flows.automations import TAG
from flows.liveness import flow_runs_below
from flows.parameters import described
from pipeline.stages.order import STAGES

PRUNED = ("end_to_end", "from_file", "on_pools", "prune", *(stage.name for stage in STAGES))
"""Flows whose runs are pruned. `rlip run` starts the first without a deployment. Other projects on the server may have
flows with the other names, so of these only runs with the tag of the deployments are pruned."""

_FINAL = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_PAGE = 200


@flow(name="prune", persist_result=False)
def prune(
    days: Annotated[float, Field(ge=0), described("Days to keep flow runs after they end.")] = 30.0,
    keep: Annotated[int, Field(ge=0), described("Number of latest runs of each flow to keep, however old.")] = 20,
) -> int:
    """Delete flow runs that ended more than `days` ago, except the last `keep` of each flow. Returns their number."""
    with get_client(sync_client=True) as client:
        # All pages are read before anything is deleted: deletions shift runs to pages that were already read.
        old = _old(client, datetime.now(UTC) - timedelta(days=days), keep)
        for run in old:
            _delete(client, run)
    get_run_logger().info("deleted %d flow runs that ended more than %g days ago", len(old), days)
    return len(old)


def _old(client: SyncPrefectClient, before: datetime, keep: int) -> list[UUID]:
    """The finished top-level runs that ended before a time, without the last `keep` of each flow."""
    seen: Counter[UUID] = Counter()
    old = []
    for run in (*_finished(client, PRUNED[:1]), *_finished(client, PRUNED[1:], tags={"all_": [TAG]})):
        seen[run.flow_id] += 1
        if seen[run.flow_id] > keep and run.end_time is not None and run.end_time < before:
            old.append(run.id)
    return old


def _finished(client: SyncPrefectClient, flows: Sequence[str], **conditions: Any) -> list[FlowRun]:
    """All finished top-level runs of these flows that meet further conditions, newest first."""
    runs: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": flows}}),
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": _FINAL}}, **conditions}),
            sort=FlowRunSort.END_TIME_DESC,
            limit=_PAGE,
            offset=len(runs),
        )
        runs += page
        if len(page) < _PAGE:
            return [run for run in runs if run.parent_task_run_id is None]


def _delete(client: SyncPrefectClient, run: UUID) -> None:
    for below in flow_runs_below(client, run):
        _delete(client, below.id)
    client.delete_flow_run(run)
