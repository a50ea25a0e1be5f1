"""Flows on a real server with a password: in this process, and as deployments on workers that are cancelled or killed.

Its database is PostgreSQL, as in production, or SQLite where that is not installed. The server is started once, and a
run that waits goes on beside others, since each process that imports Prefect takes seconds.
"""

import errno
import fcntl
import json
import os
import platform
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from http_server import answering
from postgres import Postgres
from prefect import State, flow, tags
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.events import Event
from prefect.flow_engine import run_flow
from prefect.logging.handlers import APILogHandler
from prefect.states import Pending, Running
from prefect_server import PROCESS_POOL, PrefectServer, plain
from small_set import small_recipe, train_long, write_small_set
from small_stages import CountSettings, CountStage
from warm_process import WarmProcess, ranks_of, wait_for

from flows.automations import TAG, create_automations
from flows.chain import end_to_end, from_file
from flows.connection import connected, reread_settings
from flows.liveness import alive
from flows.on_pools import on_pools
from flows.prune import prune
from flows.session import Session, shared
from flows.stages import gpu_slots, run_stage, shard
from pipeline.report.steps import StepOutcome
from pipeline.run.context import RunContext
from pipeline.run.dag import Step
from pipeline.run.planner import Planner
from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe
from pipeline.stages.caption import CaptionStage
from pipeline.stages.parse import ParseStage
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.open_store import open_store
from storage.runs import Run

PASSWORD = "operator:correct horse"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres | None]:
    """The server's database; None stands for SQLite."""
    with Postgres.running() as found:
        yield found


@pytest.fixture(scope="module")
def server(postgres: Postgres | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server set up as docs/operations.md says, to which flows called in this process are connected."""
    home = tmp_path_factory.mktemp("prefect")
    settings = {
        "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
        "PREFECT_API_AUTH_STRING": PASSWORD,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    }
    if postgres is not None:
        settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = postgres.url
    with PrefectServer.running(home, **settings) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_API_AUTH_STRING"):
            patch.setenv(name, server.environment[name])
        with connected(home):
            reread_settings()
            yield server
            APILogHandler().flush()  # What remains would be sent to a server that has stopped, with all retries.


@pytest.fixture(scope="module")
def client(server: PrefectServer) -> SyncPrefectClient:
    """A client of the server."""
    return server.client


@pytest.fixture
def settings(server: PrefectServer) -> Iterator[pytest.MonkeyPatch]:
    """Changes Prefect's settings in this process for one test."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    reread_settings()


@pytest.mark.parametrize("password", [None, "operator:wrong"])
def test_a_refused_password_is_named(settings, tmp_path, password):
    settings.delenv("PREFECT_API_AUTH_STRING")
    if password is not None:
        settings.setenv("PREFECT_API_AUTH_STRING", password)
    with pytest.raises(FatalError, match=r"refuses the credentials.*PREFECT_API_AUTH_STRING"), connected(tmp_path):
        pass


@flow(name="end_to_end")
def short() -> None:
    """A flow of this project's name that does nothing."""


@flow(name="evaluate")
def other() -> None:
    """A flow of another project, with the name of one of this project's."""


@pytest.fixture(scope="module")
def silent(client: SyncPrefectClient) -> Iterator[tuple[Sequence[str], FlowRun, FlowRun, list[str]]]:
    """Names of the automations, a run of this project and one of another that fell silent, and subjects of messages.

    Other tests run during the ten seconds of silence, which are the fewest that Prefect takes.
    """
    subjects: list[str] = []

    def answer(path: str, headers: object, body: bytes) -> tuple[int, bytes]:
        subjects.append(json.loads(body)["subject"])
        return 200, b""

    with answering(answer) as address:
        block = CustomWebhookNotificationBlock(name="t", url=address, json_data={"subject": "{{subject}}"})
        block.save("oncall", overwrite=True)
        for _ in range(2):
            names = create_automations(client, "custom-webhook/oncall", timedelta(seconds=10))
        ours = client.create_flow_run(short, tags=[TAG], name="ours")
        theirs = client.create_flow_run(other, name="theirs")
        for run in (ours, theirs):
            client.set_flow_run_state(run.id, Running())
            _send_heartbeat(client, run)
        yield names, ours, theirs, subjects


def _send_heartbeat(client: SyncPrefectClient, run: FlowRun) -> None:
    """Send a heartbeat of a flow run, as Prefect's engine does.

    It goes by HTTP: the worker that sends events for a process stays with the server of whatever test came first.
    """
    related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags]
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    event = Event.model_validate({"event": "prefect.flow-run.heartbeat", "resource": resource, "related": related})
    client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def test_automations_are_created_once_and_need_a_block_that_exists(client, silent):
    assert [len(client.read_automations_by_name(name)) for name in silent[0]] == [1, 1]
    with pytest.raises(FatalError, match="no such block"):
        create_automations(client, "slack-webhook/nobody")


@flow(name="count")
def count(recipe: Recipe) -> State[list[StepOutcome]]:
    """The flow of a stage that fails in configured ways."""
    return run_stage(recipe, "count")


def _count(root: Path, blocks: int = 2, **failures: int) -> State[Any]:
    """Run stage `count` on a small dataset, and return the final state of the flow."""
    folder = root if (root / "recipe.toml").is_file() else write_small_set(root).parent
    recipe = small_recipe(folder, f"run.blocks={blocks}")
    planner = Planner(RunContext(recipe))
    planner.context.steps = [Step("ingest", CountStage, CountSettings(marks=root, **failures), datasets=("set",))]
    with shared(Session(planner, Display(), reports=False)):
        state: State[Any] = count(recipe, return_state=True)
    return state


def test_what_may_pass_is_tried_again_and_only_that_in_no_more_task_runs_than_asked_for(server, tmp_path):
    wavered = _count(tmp_path / "wavers", fail_once_at=6)
    failed = _count(tmp_path / "fails", blocks=1, fail_at=2)
    assert wavered.is_completed() and [step.rows_out for step in wavered.result()] == [8]
    assert _tries(server, wavered, 2) == {"ingest set/0000": ("COMPLETED", 1), "ingest set/0001": ("COMPLETED", 2)}
    with pytest.raises(FatalError, match="image 2 is impossible"):
        failed.result()
    assert _tries(server, failed, 1) == {"ingest set/0000 to set/0001": ("FAILED", 1)}


def _tries(server: PrefectServer, state: State[Any], count: int) -> dict[str, tuple[str, int]]:
    """Task run → its final state and number of attempts, once the server knows so many."""
    flows = {"id": {"any_": [str(state.state_details.flow_run_id)]}}

    def ended() -> dict[str, tuple[str, int]] | None:
        runs = server.post("task_runs/filter", flow_runs=flows, limit=50)
        found = {run["name"]: (run["state"]["type"], run["run_count"]) for run in runs if run["state"]}
        open_states = {"PENDING", "RUNNING", "SCHEDULED"} & {kind for kind, _ in found.values()}
        return None if open_states or len(found) < count else found

    return wait_for(ended, "the server does not know how the tasks ended")


HANGING = """
import time
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
    with alive(LocalStore(Path("{store}")), context.flow_run.id):
        print(context.flow_run.id, flush=True)
        below()

killed()
"""


def test_a_killed_run_is_marked_as_crashed_by_the_next_and_a_living_one_not(server, tmp_path):
    store = small_recipe(write_small_set(tmp_path).parent).store
    process = WarmProcess(exec, HANGING.format(store=store), {})
    runs = [process.stdout.readline().strip() for _ in range(2)]
    assert _count(tmp_path).is_completed()
    assert [server.get(f"flow_runs/{run}")["state"]["type"] for run in runs] == ["RUNNING"] * 2
    wait_for(lambda: server.task_states(runs[0]).get("hang"), "the task is not known to the server")
    deployment = server.post("deployments/", name="elsewhere", flow_id=server.post("flows/", name="elsewhere")["id"])
    called = {"parent_task_run_id": server.get(f"flow_runs/{runs[1]}")["parent_task_run_id"]}
    elsewhere = server.post(f"deployments/{deployment['id']}/create_flow_run", state={"type": "RUNNING"}, **called)
    process.kill()
    process.wait(20)
    assert _count(tmp_path).is_completed()
    states = [server.get(f"flow_runs/{run}")["state"] for run in runs]
    assert [state["type"] for state in states] == ["CRASHED"] * 2 and "process died" in states[0]["message"]
    assert server.task_states(runs[0])["hang"] == "Crashed"
    assert server.get(f"flow_runs/{elsewhere['id']}")["state"]["type"] == "RUNNING", "it has a process of its own"
    assert list((tmp_path / "out" / "store" / "pending").glob("*flow-*")) == []


def test_a_run_that_lost_the_server_is_marked_as_crashed_by_the_next(server, tmp_path, monkeypatch):
    take = fcntl.flock

    def on_nfs(file: Any, kind: int) -> None:
        if kind & fcntl.LOCK_EX and not (isinstance(file, int) or file.writable()):
            raise OSError(errno.EBADF, "Bad file descriptor")
        take(file, kind)

    monkeypatch.setattr(fcntl, "flock", on_nfs)
    lost = server.post("flow_runs/", flow_id=server.post("flows/", name="lost")["id"], state={"type": "RUNNING"})
    store = LocalStore(Path(small_recipe(write_small_set(tmp_path).parent).store))
    with pytest.raises(httpx.ConnectError), alive(store, UUID(lost["id"])):
        raise httpx.ConnectError("refused")
    assert _count(tmp_path).is_completed()
    assert server.get(f"flow_runs/{lost['id']}")["state"]["type"] == "CRASHED"


def test_a_stage_alone_names_what_is_due_above_it(server, tmp_path):
    train_long(write_small_set(tmp_path / "set").parent)
    with pytest.raises(FatalError, match=r"reads ingest, of which 2 partitions are due: run"):
        shard(small_recipe(tmp_path / "set", "pretrain.settings.device=cuda"))  # of the machine that trains
    APILogHandler().flush()

    def errors() -> list[str] | None:
        entries = server.post("logs/filter", logs={"level": {"ge_": 40}}, sort="TIMESTAMP_DESC", limit=50)
        return [entry["message"] for entry in entries if "reads ingest" in entry["message"]] or None

    (line,) = wait_for(errors, "the server has no log of the error")
    assert line.startswith("shard of recipe 'small' reads ingest") and "\n" not in line, "no traceback"


def test_a_run_that_falls_silent_is_crashed_and_reported(client, silent):
    names, ours, theirs, subjects = silent

    def state(run: FlowRun) -> str:
        return str(client.read_flow_run(run.id).state)

    wait_for(lambda: state(ours).startswith("Crashed") or None, "the silent run is not crashed")
    assert "no heartbeat for 10 seconds" in state(ours)
    assert state(theirs).startswith("Running")
    wait_for(lambda: subjects or None, "no message was sent")
    assert subjects == ["rlip: ours Crashed"]
    for name in names:  # deployed runs send a heartbeat only each 30 seconds
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)


def test_pruning_deletes_old_runs_of_this_project_and_keeps_the_last(client):
    with tags("prunes"):
        for each in (short, short, short, other):
            each()

    def names() -> list[str]:
        flows = {each.id: each.name for each in client.read_flows()}
        return sorted(flows[run.flow_id] for run in client.read_flow_runs() if "prunes" in run.tags)

    before = names()
    assert prune(days=1, keep=0) == 0 and names() == before
    assert prune(days=0, keep=1) >= 2
    assert names() == ["end_to_end", "evaluate"]


def test_gpu_slots_are_held_while_a_step_computes_and_a_limit_that_can_not_grant_them_is_named(
    client, server, tmp_path
):
    one = {"RLIP_GPU_SLOTS": "1"}
    with gpu_slots(ParseStage, one), gpu_slots(CaptionStage, {}):
        pass
    with pytest.raises(FatalError, match="no concurrency limit 'gpu': create it"), gpu_slots(CaptionStage, one):
        pass
    server.command("global-concurrency-limit", "create", "gpu", "--limit", "1", cwd=tmp_path)
    with gpu_slots(CaptionStage, one):
        assert client.read_global_concurrency_limit_by_name("gpu").active_slots == 1
    assert client.read_global_concurrency_limit_by_name("gpu").active_slots == 0
    two = {"RLIP_GPU_SLOTS": "2"}
    with pytest.raises(FatalError, match="is 1, so a step would wait forever"), gpu_slots(CaptionStage, two):
        pass
    with pytest.raises(FatalError, match="'many'"), gpu_slots(CaptionStage, {"RLIP_GPU_SLOTS": "many"}):
        pass


def test_a_schedule_whose_recipe_is_gone_says_so(server, tmp_path):
    with pytest.raises(FatalError, match=r"gone\.toml on .*: no recipe at .*gone\.toml; .*Restore"):
        from_file(tmp_path / "gone.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset, whose artifacts the tests share."""
    return write_small_set(tmp_path_factory.mktemp("set") / "set").parent


def test_a_start_needs_all_that_comes_before_it(client, folder, tmp_path):
    with pytest.raises(FatalError, match=r"ingest: 2 of 2 partitions are not in .*start at ingest"):
        end_to_end(small_recipe(folder, f"store={tmp_path}"), start="caption")


def test_a_second_flow_run_of_a_run_waits_and_says_so_and_others_go_on(client, folder):
    recipe, store = folder / "recipe.toml", small_recipe(folder).store
    waits = f"another flow run, on {platform.node()}, is working on run 'one' of {store}"

    def said() -> bool | None:
        return any(waits in entry.message for entry in client.read_logs(sort=LogSort.TIMESTAMP_DESC)) or None

    with open_store(store).claim("run-one", lambda: None):
        second = threading.Thread(target=from_file, args=(recipe, ("name=one",)))
        second.start()
        wait_for(said, "the second run does not say what it waits for")
        assert from_file(recipe, ("name=other",)).computed == 6
        assert second.is_alive()
    second.join(60)
    assert not second.is_alive() and Run(LocalStore(Path(store)), "one").steps()


def test_a_run_that_starts_at_a_stage_runs_no_flow_of_a_stage_before(client, folder):
    recipe = small_recipe(folder, "name=late")
    shutil.rmtree(folder / "out" / "store" / "artifacts" / "parse")
    state = end_to_end(recipe, start="parse", return_state=True)
    assert state.name == "Completed" and state.message == "2 partitions computed"
    assert [run.name for run in client.read_flow_runs() if run.name.endswith(" late")] == ["parse late"]


@pytest.fixture(scope="module")
def deployed(server: PrefectServer, client: SyncPrefectClient, root: Path) -> PrefectServer:
    """The work pools, and deployments of each kind in prefect.yaml."""
    client.upsert_global_concurrency_limit_by_name("gpu", 2)
    for pool in ("cpu", "gpu", "train"):
        client.create_work_pool(WorkPoolCreate(**PROCESS_POOL, name=pool))
    names = [
        word
        for name in ("end_to_end", "from_file", "on_pools", "prune", "caption", "parse")
        for word in ("--name", name)
    ]
    server.command("deploy", *names, cwd=root, RLIP_ROOT=str(root))
    return server


@pytest.fixture(scope="module")
def worker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker starts, which is not the project's folder."""
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with a recipe for a long training."""
    folder = write_small_set(tmp_path_factory.mktemp("trained") / "set").parent
    train_long(folder)
    return folder


@pytest.fixture(scope="module")
def runs(deployed: PrefectServer, worker_folder: Path, trained: Path) -> Iterator[dict[str, str]]:
    """Flow runs on one worker at the same time: a training, and one that is refused."""
    refused = plain(small_recipe(trained))
    refused["pretrain"]["variants"] = ["pseudo"]
    recipes = {"training": plain(small_recipe(trained, "pretrain.settings.processes=1")), "refused": refused}
    with deployed.worker("train", worker_folder):
        yield {name: deployed.submit("end_to_end/end_to_end", recipe) for name, recipe in recipes.items()}


def test_stages_run_in_their_pools_beside_a_training_and_what_would_wait_for_ever_is_refused(
    client, server, root, folder, trained, request
):
    recipe = small_recipe(folder)
    with pytest.raises(FatalError, match="no deployment ingest/ingest: create all of them"):
        on_pools(recipe)
    template = json.loads((root / "deploy" / "pools" / "kubernetes.json").read_bytes())
    client.create_work_pool(WorkPoolCreate(name="pods", type="kubernetes", base_job_template=template))
    training = request.getfixturevalue("runs")["training"]
    with pytest.raises(FatalError, match=r"has no worker online: start one \(prefect worker start --pool"):
        on_pools(recipe, start="caption")
    client.update_work_pool("cpu", WorkPoolUpdate(concurrency_limit=1))
    refused = _on_pools(client, recipe, "parse")
    assert "work pool cpu of parse/parse has a concurrency limit of 1" in str(refused), refused
    client.update_work_pool("cpu", WorkPoolUpdate(concurrency_limit=2))
    from_file(folder / "recipe.toml")
    shutil.rmtree(folder / "out" / "store" / "artifacts" / "caption")
    _next_checkpoint(trained, 0, server, training)
    _send(trained, signal.SIGSTOP)  # so that it takes no time from what goes on beside it
    with server.worker("cpu", folder / "cpu"), server.worker("gpu", folder / "gpu"):
        for pool in ("cpu", "gpu"):
            wait_for(lambda pool=pool: client.read_workers_for_work_pool(pool) or None, f"no worker of {pool}")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(_on_pools, client, recipe, "caption")
            locks = folder / "out" / "store" / "pending"
            wait_for(lambda: len(list(locks.glob("flow-*.lock"))) == 2 or None, "not both flow runs hold locks")
            state = running.result()
    assert state.name == "Cached" and (folder / "out" / "reports" / "small" / "index.html").is_file(), state
    pools = {run.name: (run.work_pool_name, str(run.state)) for run in client.read_flow_runs() if run.work_pool_name}
    assert pools["caption small"] == ("gpu", "Completed('2 of 2 partitions computed')")
    assert pools["parse small"][0] == "cpu"
    assert server.get(f"flow_runs/{training}")["state"]["type"] == "RUNNING"


def _on_pools(client: SyncPrefectClient, recipe: Recipe, start: str) -> State[Any]:
    """Run deployment on_pools in this process, as a worker of its pool would in another, and return the final state."""
    parameters = {"recipe": plain(recipe), "start": start}
    deployment = client.read_deployment_by_name("on_pools/on_pools")
    run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, state=Pending())
    return run_flow(on_pools, run, parameters, return_type="state")


def test_a_refused_recipe_is_reported_in_one_line(deployed, runs, worker_folder):
    state = deployed.final_state(runs["refused"], 120)
    said = "parameter recipe: recipe: pretrain.variants has 'pseudo'"
    assert state["type"] == "FAILED" and said in state["message"], (state, deployed.logs(runs["refused"]))
    wait_for(lambda: len(_flow_processes()) == 1 or None, "the process of the flow run goes on")
    said = (worker_folder / "worker.log").read_text()
    assert said.count("| ERROR") == 1 and "Traceback" not in said and "max_pixels" not in said, said


@pytest.mark.timeout(1800)
def test_a_training_survives_a_restarted_server_and_a_kill_and_keeps_its_checkpoint_when_cancelled(
    deployed, runs, worker_folder, trained, tmp_path
):
    run = runs["training"]
    before = _next_checkpoint(trained, 0, deployed, run)
    deployed.stop()
    _send(trained, signal.SIGCONT)
    before = _next_checkpoint(trained, before, deployed, run)
    _send(trained, signal.SIGSTOP)
    deployed.serve()
    _send(trained, signal.SIGCONT)
    _next_checkpoint(trained, before, deployed, run)
    state = deployed.get(f"flow_runs/{run}")["state"]
    assert state["type"] == "RUNNING", state["message"] + deployed.logs(run)

    _send(trained, signal.SIGSTOP)
    killed_at = _newest(trained)
    for process in _flow_processes():
        process.kill()
    assert deployed.final_state(run, 60)["type"] == "CRASHED"
    wait_for(lambda: not ranks_of(trained) or None, "processes of the killed run are still running")
    # The worker looks at the dead process a second time, and would undo a retry that came before.
    said = worker_folder / "worker.log"
    wait_for(lambda: "flow_runs.worker - Check whether" in said.read_text() or None, "no report of the loss")
    deployed.command("flow-run", "retry", run, cwd=tmp_path)
    resumed_at = _next_checkpoint(trained, killed_at, deployed, run)
    (log,) = _pending(trained).glob("scratch-*/train.log")
    assert f"continuing from the checkpoint of step {killed_at}" in log.read_text()

    deployed.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=False)
    assert deployed.final_state(run, 120)["type"] == "CANCELLED", deployed.logs(run)
    assert _newest(trained) >= resumed_at
    tasks = wait_for(lambda: found if len(found := deployed.task_states(run)) >= 8 else None, "task runs are missing")
    assert {name: state for name, state in tasks.items() if " set/" in name} == {
        **{f"{step} set/000{number}": "Completed" for step in ("ingest", "shard:none") for number in (0, 1)},
        **{f"{step} set/0000 to set/0001": "Cached" for step in ("ingest", "shard:none")},
    }
    wait_for(lambda: not ranks_of(trained) or None, "processes of the cancelled run are still running")


def _pending(folder: Path) -> Path:
    return folder / "out" / "store" / "pending"


def _newest(folder: Path) -> int:
    """Return the step of the newest checkpoint of the training; 0 without one."""
    paths = _pending(folder).glob("scratch-*/checkpoints/step-*")
    return max((int(path.name.removeprefix("step-")) for path in paths), default=0)


def _next_checkpoint(folder: Path, after: int, server: PrefectServer, run: str) -> int:
    """Wait until the training has a checkpoint of a later step than `after`, and return its step."""
    complaint = f"flow run {run} of {server.api} writes no checkpoint after step {after}"
    return wait_for(lambda: newest if (newest := _newest(folder)) > after else None, complaint, seconds=240)


def _send(folder: Path, number: int) -> None:
    """Send a signal to the ranks of the training in `folder`."""
    for rank in ranks_of(folder):
        os.kill(rank, number)


def _flow_processes() -> list[psutil.Process]:
    """The processes in which workers of this test's process run flows."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # also one that ended and that no one has waited for
            if "prefect.engine" in process.cmdline():
                found.append(process)
    return found
