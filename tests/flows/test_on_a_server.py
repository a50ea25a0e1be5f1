"""Flows on a real server: retries, a stage run alone, deployments on a process worker; training that is cancelled or killed.

This takes minutes: all deployments are created, each flow run is a process that imports Prefect, and a worker takes its time
to notice a dead one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prefect import State, flow
from prefect.logging.handlers import APILogHandler
from prefect_server import PROCESS_POOL, PrefectServer, plain, wait_for
from small_set import small_recipe, train_long, write_small_set
from small_stages import CountSettings, CountStage, ManyStage
from warm_process import ranks_of

from flows.connection import connected, reread_settings
from flows.liveness import alive
from flows.session import Session, shared
from flows.stages import caption, run_stage
from pipeline.report.steps import StepOutcome
from pipeline.run.context import RunContext
from pipeline.run.dag import Step
from pipeline.run.planner import Planner
from pipeline.run.progress import JsonLines
from pipeline.run.recipe import Recipe
from storage.errors import FatalError
from storage.local_store import LocalStore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server on a free port, with its own folder, which keeps leases over a restart (docs/operations.md)."""
    leases = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
    with PrefectServer.running(tmp_path_factory.mktemp("prefect"), **leases) as server:
        yield server


@pytest.fixture
def in_process(server: PrefectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PrefectServer]:
    """Connects flows called in this process to the server."""
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.setenv(name, server.environment[name])
    with connected(tmp_path):
        reread_settings()
        yield server
        APILogHandler().flush()  # What remains would be sent to a server that has stopped, with all retries.


@flow(name="count")
def count(recipe: Recipe) -> State[list[StepOutcome]]:
    """The flow of a stage that fails in configured ways."""
    return run_stage(recipe, "count")


def _count(root: Path, stage: type[CountStage] = CountStage, blocks: int = 2, **failures: int) -> State[Any]:
    """Run stage `count` on a small dataset, and return the final state of the flow."""
    folder = root if (root / "recipe.toml").is_file() else write_small_set(root).parent
    recipe = small_recipe(folder, f"run.blocks={blocks}")
    planner = Planner(RunContext(recipe))
    planner.context.steps = [Step("ingest", stage, CountSettings(marks=root, **failures), datasets=("set",))]
    with shared(Session(planner, JsonLines(), reports=False)):
        state: State[Any] = count(recipe, return_state=True)  # type: ignore[assignment]
    return state


def test_what_may_pass_is_tried_again_and_only_that(in_process: PrefectServer, tmp_path: Path) -> None:
    wavered = _count(tmp_path / "wavers", fail_once_at=6)
    assert wavered.is_completed() and [step.rows_out for step in wavered.result()] == [8]
    assert _tries(in_process, wavered) == {"ingest set/0000": ("COMPLETED", 1), "ingest set/0001": ("COMPLETED", 2)}
    failed = _count(tmp_path / "fails", fail_at=2)
    with pytest.raises(FatalError, match="image 2 is impossible"):
        failed.result()
    assert _tries(in_process, failed)["ingest set/0000"] == ("FAILED", 1)


def _tries(server: PrefectServer, state: State[Any]) -> dict[str, tuple[str, int]]:
    """Task run → its final state and number of attempts, once the server knows them."""
    flows = {"id": {"any_": [str(state.state_details.flow_run_id)]}}

    def ended() -> dict[str, tuple[str, int]] | None:
        runs = server.post("task_runs/filter", flow_runs=flows, limit=50)
        found = {run["name"]: (run["state"]["type"], run["run_count"]) for run in runs if run["state"]}
        open_states = {"PENDING", "RUNNING", "SCHEDULED"} & {kind for kind, _ in found.values()}
        return None if open_states or len(found) < 2 else found

    return wait_for(ended, 20, "the server does not know how the tasks ended")


def test_many_partitions_are_few_task_runs_of_which_the_server_loses_none(
    in_process: PrefectServer, tmp_path: Path
) -> None:
    state = _count(tmp_path / "many", ManyStage, blocks=64)
    assert state.is_completed() and [step.partitions for step in state.result()] == [200]
    flows = {"id": {"any_": [str(state.state_details.flow_run_id)]}}

    def ended() -> list[str] | None:
        runs = in_process.post("task_runs/filter", flow_runs=flows, limit=200)
        states = [run["state"] or {} for run in runs]
        messages = [state["message"] for state in states if state.get("type") == "COMPLETED"]
        return messages if len(messages) >= 64 else None

    messages = wait_for(ended, 30, "the server does not know how all tasks ended")
    assert len(messages) == 64
    assert sum(int(message.partition(" cached, ")[2].partition(" ")[0]) for message in messages) == 200


HANGING = """
import sys, time
from pathlib import Path
from prefect import flow, task
from prefect.context import FlowRunContext
from flows.liveness import alive
from storage.local_store import LocalStore

@task(task_run_name="hang")
def hang(): print(FlowRunContext.get().flow_run.id, flush=True); time.sleep(600)

@flow
def below(): hang()

@flow
def killed():
    context = FlowRunContext.get()
    with alive(LocalStore(Path(sys.argv[1])), context.flow_run.id):
        print(context.flow_run.id, flush=True)
        below()

killed()
"""


def test_a_run_that_was_killed_is_marked_as_crashed_by_the_next_and_a_living_one_is_not(
    in_process: PrefectServer, tmp_path: Path, root: Path
) -> None:
    command = [sys.executable, "-c", HANGING, str(small_recipe(write_small_set(tmp_path).parent).store)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=root, env=dict(in_process.environment), **pipe) as process:
        runs = [process.stdout.readline().strip() for _ in range(2)]
        assert _count(tmp_path).is_completed()
        assert [in_process.get(f"flow_runs/{run}")["state"]["type"] for run in runs] == ["RUNNING"] * 2
        wait_for(lambda: in_process.task_states(runs[0]).get("hang"), 30, "the task is not known to the server")
        process.kill()
    assert _count(tmp_path).is_completed()
    states = [in_process.get(f"flow_runs/{run}")["state"] for run in runs]
    assert [state["type"] for state in states] == ["CRASHED"] * 2 and "process is gone" in states[0]["message"]
    assert in_process.task_states(runs[0])["hang"] == "Crashed"
    assert list((tmp_path / "out" / "store" / "pending").glob("*flow-*")) == []


def test_a_run_that_lost_the_server_is_marked_as_crashed_by_the_next(in_process: PrefectServer, tmp_path: Path) -> None:
    lost = in_process.post(
        "flow_runs/", flow_id=in_process.post("flows/", name="lost")["id"], state={"type": "RUNNING"}
    )
    store = LocalStore(Path(small_recipe(write_small_set(tmp_path).parent).store))
    with pytest.raises(httpx.ConnectError), alive(store, UUID(lost["id"])):
        raise httpx.ConnectError("refused")
    assert _count(tmp_path).is_completed()
    assert in_process.get(f"flow_runs/{lost['id']}")["state"]["type"] == "CRASHED"


def test_a_stage_alone_names_what_is_due_above_it(in_process: PrefectServer, tmp_path: Path) -> None:
    write_small_set(tmp_path / "set")
    with pytest.raises(
        FatalError, match=r"reads ingest, of which 2 partitions are due: run the deployment ingest or end_to_end"
    ):
        caption(small_recipe(tmp_path / "set"))
    APILogHandler().flush()

    def errors() -> list[str] | None:
        entries = in_process.post("logs/filter", logs={"level": {"ge_": 40}}, sort="TIMESTAMP_DESC", limit=50)
        return [entry["message"] for entry in entries if "reads ingest" in entry["message"]] or None

    (line,) = wait_for(errors, 20, "the server has no log of the error")
    assert line.startswith("caption of recipe 'small' reads ingest") and "\n" not in line, "no traceback"


@pytest.fixture(scope="module")
def worker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker starts, which is not the project's folder."""
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def worker(server: PrefectServer, root: Path, worker_folder: Path) -> Iterator[PrefectServer]:
    """The deployments of prefect.yaml, and a process worker started in another folder."""
    for pool in ("cpu", "gpu", "train"):
        server.post("work_pools/", **PROCESS_POOL, name=pool)
    server.post("v2/concurrency_limits/", name="gpu", limit=2)
    deploying = PrefectServer(server.api, {**server.environment, "RLIP_ROOT": str(root)})
    deploying.command("deploy", "--all", cwd=root)
    with server.worker("train", worker_folder):
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset, whose tables the tests share."""
    return write_small_set(tmp_path_factory.mktemp("set") / "set").parent


@pytest.mark.timeout(1800)
def test_a_deployment_runs_is_cached_and_a_cancelled_training_keeps_its_checkpoint(
    worker: PrefectServer, folder: Path, tmp_path: Path
) -> None:
    first = worker.submit("end_to_end/end_to_end", plain(small_recipe(folder)))
    assert worker.final_state(first, 240)["name"] == "Completed", worker.logs(first)
    assert (folder / "out" / "reports" / "small" / "index.html").is_file()

    train_long(folder)
    second = worker.submit("end_to_end/end_to_end", plain(small_recipe(folder)))
    _next_checkpoint(folder, 0, worker, second)
    assert ranks_of(folder)
    third = worker.submit("end_to_end/end_to_end", plain(small_recipe(write_small_set(tmp_path / "other").parent)))
    assert worker.final_state(third, 240)["name"] == "Completed", "a run of another store waits for none"
    assert worker.get(f"flow_runs/{second}")["state"]["type"] == "RUNNING"
    worker.post(f"flow_runs/{second}/set_state", state={"type": "CANCELLING"}, force=False)
    assert worker.final_state(second, 120)["type"] == "CANCELLED", worker.logs(second)
    assert _newest(folder)
    tasks = wait_for(lambda: _as_many(worker.task_states(second), 7), 20, "task runs are missing")
    assert {name: state for name, state in tasks.items() if " set/" in name} == {
        "ingest set/0000 to set/0001": "Cached",
        **{f"shard:none set/000{number}": "Completed" for number in (0, 1)},
    }
    wait_for(lambda: not ranks_of(folder) or None, 20, "processes of the cancelled run are still running")


@pytest.mark.timeout(1800)
def test_a_killed_run_is_retried_and_goes_on_through_a_restart_of_the_server(
    worker: PrefectServer, worker_folder: Path, folder: Path, tmp_path: Path
) -> None:
    train_long(folder)
    before = _newest(folder)
    run = worker.submit("end_to_end/end_to_end", plain(small_recipe(folder)))
    _next_checkpoint(folder, before, worker, run)
    _kill_flow_processes()
    assert worker.final_state(run, 60)["type"] == "CRASHED"
    killed_at = _newest(folder)
    # The worker looks at the dead process a second time, and would undo a retry that came before.
    said = worker_folder / "worker.log"
    wait_for(lambda: "flow_runs.worker - Check whether" in said.read_text() or None, 60, "no report of the loss")

    worker.command("flow-run", "retry", run, cwd=tmp_path)
    resumed_at = _next_checkpoint(folder, killed_at, worker, run)
    (log,) = _pending(folder).glob("scratch-*/train.log")
    assert f"continuing from the checkpoint of step {killed_at}" in log.read_text()
    worker.stop()
    worker.serve()
    _next_checkpoint(folder, resumed_at, worker, run)
    state = worker.get(f"flow_runs/{run}")["state"]
    assert state["type"] == "RUNNING", state["message"] + worker.logs(run)
    worker.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=False)
    assert worker.final_state(run, 120)["type"] == "CANCELLED", worker.logs(run)


def _pending(folder: Path) -> Path:
    return folder / "out" / "store" / "pending"


def _newest(folder: Path) -> int:
    """Return the step of the newest checkpoint of the training; 0 without one."""
    paths = _pending(folder).glob("scratch-*/checkpoints/step-*")
    return max((int(path.name.removeprefix("step-")) for path in paths), default=0)


def _next_checkpoint(folder: Path, after: int, server: PrefectServer, run: str) -> int:
    """Wait until the training has a checkpoint of a later step than `after`, and return its step."""
    return wait_for(lambda: found if (found := _newest(folder)) > after else None, 240, server.logs(run))


def _kill_flow_processes() -> None:
    for process in _flow_processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _flow_processes() -> list[psutil.Process]:
    """The processes in which workers of this test's process run flows."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # also one that ended and that no one has waited for
            if "prefect.engine" in process.cmdline():
                found.append(process)
    return found


def _as_many(found: dict[str, str], wanted: int) -> dict[str, str] | None:
    return found if len(found) >= wanted else None


def test_a_wrong_parameter_is_refused_before_it_runs(worker: PrefectServer, tmp_path: Path) -> None:
    parameters = plain(small_recipe(write_small_set(tmp_path / "set").parent))
    parameters["run"]["workers"] = 0
    with pytest.raises(Exception, match=r"409|422"):
        worker.submit("end_to_end/end_to_end", parameters)


def test_a_recipe_that_no_schema_refuses_is_refused_in_one_line(
    worker: PrefectServer, worker_folder: Path, tmp_path: Path
) -> None:
    parameters = plain(small_recipe(write_small_set(tmp_path / "set").parent))
    parameters["pretrain"]["variants"] = ["pseudo"]
    printed = worker_folder / "worker.log"
    before = len(printed.read_text())
    run = worker.submit("end_to_end/end_to_end", parameters)
    state = worker.final_state(run, 120)
    assert state["type"] == "FAILED" and "parameter recipe: recipe: pretrain.variants has 'pseudo'" in state["message"]
    wait_for(lambda: not _flow_processes() or None, 30, "the process of the flow run goes on")
    said = printed.read_text()[before:]
    assert said.count("| ERROR") == 1 and "Traceback" not in said and "max_pixels" not in said, said
