"""Finds flow runs whose process was killed, by a lock that living processes hold, and marks them as crashed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Crashed

from storage.disk import lock_file
from storage.store import Store

MESSAGE = "its process died; its committed results are in the store, and another run continues from there"
_OPEN = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


@contextmanager
def alive(store: Store, run: UUID) -> Iterator[None]:
    """Hold a lock while `run` is alive. The kernel releases it when the process dies, for whatever reason.

    First marks runs as `Crashed` whose lock file in this store is no longer locked, if the server knows them and has no
    final state for them. Runs of other machines have no lock file here and are left alone, as are living runs. Prefect
    keeps the id of a run that it retries: of an earlier attempt at `run`, only what is below it is marked.
    """
    folder = store.root / "pending"
    for path in folder.glob("flow-*.lock"):
        _mark_if_dead(path, run)
    hidden = folder / f".flow-{run}"
    with lock_file(hidden) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = hidden.rename(folder / f"flow-{run}.lock")  # locked before it becomes visible
        server_knows = True
        try:
            yield
        except httpx.TransportError:
            server_knows = False  # the next run marks this one
            raise
        finally:
            if server_knows:
                path.unlink(missing_ok=True)


def _mark_if_dead(path: Path, living: UUID) -> None:
    """Mark the run that a lock file names if its process is dead. If the server refuses, it stays for the next run."""
    # On NFS, only a file that is open for writing can be locked exclusively.
    with suppress(OSError, ValueError, ObjectNotFound, PrefectHTTPStatusError), path.open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        dead = UUID(path.stem.removeprefix("flow-"))
        with get_client(sync_client=True) as client:
            _crash_below(client, dead)
            if dead != living:
                _crash(client, dead)
        path.unlink(missing_ok=True)


def _crash(client: SyncPrefectClient, run: UUID) -> None:
    """Mark a flow run as crashed unless its state is final. Raises `ObjectNotFound` if unknown."""
    state = client.read_flow_run(run).state
    if state is not None and not state.is_final():
        client.set_flow_run_state(run, Crashed(message=MESSAGE), force=True)


def _crash_below(client: SyncPrefectClient, run: UUID) -> None:
    """Mark the flow and task runs below a flow run as crashed unless their states are final.

    Leaves out flow runs of deployments: they have processes and locks of their own.
    """
    for below in flow_runs_below(client, run):
        if below.deployment_id is None:
            _crash_below(client, below.id)
            _crash(client, below.id)
    open_tasks = {"flow_run_id": {"any_": [run]}, "state": {"type": {"any_": _OPEN}}}
    for task in client.read_task_runs(task_run_filter=TaskRunFilter.model_validate(open_tasks)):
        client.set_task_run_state(task.id, Crashed(message=MESSAGE), force=True)


def flow_runs_below(client: SyncPrefectClient, run: UUID) -> list[FlowRun]:
    """The flow runs that a flow run called."""
    called = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [run]}})
    return client.read_flow_runs(flow_run_filter=called)
