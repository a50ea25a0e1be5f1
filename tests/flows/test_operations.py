"""What operates runs on a server with a password: automations, pruning, GPU slots, schedules' files, and stages on pools.

This takes minutes: each stage on a pool is a flow run in a process that imports Prefect, and silence takes time.
"""

from __future__ import annotations

import json
import platform
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect import flow, tags
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.events import Event
from prefect.logging.handlers import APILogHandler
from prefect.states import Running
from prefect_server import PROCESS_POOL, PrefectServer, plain, wait_for
from small_set import small_recipe, write_small_set

from flows.automations import TAG, create_automations
from flows.chain import end_to_end, from_file
from flows.connection import connected, reread_settings
from flows.gpu_slots import gpu_slots
from flows.on_pools import on_pools
from flows.prune import prune
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.open_store import open_store
from storage.runs import Run

PASSWORD = "operator:correct horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that asks for a password and for CSRF tokens."""
    with PrefectServer.running(
        tmp_path_factory.mktemp("prefect"),
        PREFECT_SERVER_API_AUTH_STRING=PASSWORD,
        PREFECT_API_AUTH_STRING=PASSWORD,
        PREFECT_SERVER_CSRF_PROTECTION_ENABLED="true",
    ) as server:
        yield server


@pytest.fixture
def settings(server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> PrefectServer:
    """Sets the server and its password in this process."""
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, server.environment[name])
    return server


@pytest.fixture
def client(settings: PrefectServer, tmp_path: Path) -> Iterator[SyncPrefectClient]:
    """Connects flows called in this process to the server."""
    with connected(tmp_path):
        reread_settings()
        with get_client(sync_client=True) as client:
            yield client
        APILogHandler().flush()  # What remains would be sent to a server that has stopped, with all retries.


@pytest.mark.parametrize("password", [None, "operator:wrong"])
def test_a_server_that_refuses_the_password_is_told_before_work(
    settings: PrefectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: str | None
) -> None:
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    if password is not None:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", password)
    with pytest.raises(FatalError, match=r"refuses the credentials.*PREFECT_API_AUTH_STRING"), connected(tmp_path):
        pass


def test_a_url_of_the_pages_and_not_of_the_api_is_told(
    settings: PrefectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", settings.api.removesuffix("/api"))
    with pytest.raises(FatalError, match="the URL ends with /api"), connected(tmp_path):
        pass


@pytest.fixture
def mailbox() -> Iterator[tuple[str, list[str]]]:
    """A URL, and the subjects of the messages that were posted there."""
    subjects: list[str] = []

    class Mailbox(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            subjects.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["subject"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Stay silent."""

    httpd = HTTPServer(("127.0.0.1", 0), Mailbox)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/", subjects
    httpd.shutdown()
    httpd.server_close()


@flow(name="end_to_end")
def short() -> None:
    """A flow of this project's name that does nothing."""


@flow
def other() -> None:
    """A flow of another project."""


def test_a_run_that_falls_silent_is_crashed_and_told_of(
    client: SyncPrefectClient, mailbox: tuple[str, list[str]]
) -> None:
    address, subjects = mailbox
    block = CustomWebhookNotificationBlock(name="t", url=address, json_data={"subject": "{{subject}}"})
    block.save("oncall", overwrite=True)
    with pytest.raises(FatalError, match="no such block"):
        create_automations(client, "slack-webhook/nobody")
    for _ in range(2):
        names = create_automations(client, "custom-webhook/oncall", timedelta(seconds=10))
        assert [len(client.read_automations_by_name(name)) for name in names] == [1, 1]

    ours = client.create_flow_run(short, tags=[TAG], name="ours")
    theirs = client.create_flow_run(other, name="theirs")
    for run in (ours, theirs):
        client.set_flow_run_state(run.id, Running())
        _beat(client, run)
    wait_for(lambda: _state(client, ours) == "Crashed" or None, 90, "the silent run is not crashed")
    assert "no heartbeat for 10 seconds" in str(client.read_flow_run(ours.id).state)
    assert _state(client, theirs) == "Running"
    wait_for(lambda: subjects or None, 60, "no message was sent")
    assert subjects == ["rlip: ours Crashed"]
    for name in names:
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)


def _beat(client: SyncPrefectClient, run: FlowRun) -> None:
    """Send a heartbeat of a flow run, as Prefect's engine does.

    It goes by HTTP: the worker that sends events for a process stays with the server of whatever test came first.
    """
    related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags]
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    event = Event.model_validate({"event": "prefect.flow-run.heartbeat", "resource": resource, "related": related})
    client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def _state(client: SyncPrefectClient, run: FlowRun) -> str:
    state = client.read_flow_run(run.id).state
    return "" if state is None or state.name is None else state.name


def test_pruning_deletes_old_runs_of_this_project_and_keeps_the_last(client: SyncPrefectClient) -> None:
    with tags("prunes"):
        for each in (short, short, short, other):
            each()

    def names() -> list[str]:
        flows = {each.id: each.name for each in client.read_flows()}
        return sorted(flows[run.flow_id] for run in client.read_flow_runs() if "prunes" in run.tags)

    before = names()
    assert prune(days=1, keep=0) == 0 and names() == before
    assert prune(days=0, keep=1) >= 2
    assert names() == ["end_to_end", "other"]


def test_gpu_slots_are_held_while_a_step_computes_and_a_limit_that_can_not_grant_them_is_told(
    client: SyncPrefectClient, settings: PrefectServer, tmp_path: Path
) -> None:
    one = {"RLIP_GPU_SLOTS": "1"}
    with gpu_slots("parse", one), gpu_slots("caption", {}):
        pass
    with pytest.raises(FatalError, match="no concurrency limit 'gpu': create it"), gpu_slots("caption", one):
        pass
    settings.command("global-concurrency-limit", "create", "gpu", "--limit", "1", cwd=tmp_path)
    with gpu_slots("caption", one):
        assert client.read_global_concurrency_limit_by_name("gpu").active_slots == 1
    assert client.read_global_concurrency_limit_by_name("gpu").active_slots == 0
    two = {"RLIP_GPU_SLOTS": "2"}
    with pytest.raises(FatalError, match="is 1, so a step would wait for ever"), gpu_slots("caption", two):
        pass
    with pytest.raises(FatalError, match="'many'"), gpu_slots("caption", {"RLIP_GPU_SLOTS": "many"}):
        pass


def test_a_schedule_whose_recipe_is_gone_says_so(client: SyncPrefectClient, tmp_path: Path) -> None:
    with pytest.raises(
        FatalError, match=r"gone\.toml on .*: no recipe at .*gone\.toml; recipes in .*Restore the recipe"
    ):
        from_file(tmp_path / "gone.toml")


def test_a_second_flow_run_of_a_run_waits_and_says_so_and_others_go_on(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    path = write_small_set(tmp_path / "set")
    waits = f"another flow run, on {platform.node()}, works on run 'one' of {small_recipe(path.parent).store}"

    def said() -> bool | None:
        return any(waits in entry.message for entry in client.read_logs(sort=LogSort.TIMESTAMP_DESC)) or None

    with open_store(small_recipe(path.parent).store).claim("run-one", lambda: None):
        second = threading.Thread(target=from_file, args=(path, ("name=one",)))
        second.start()
        wait_for(said, 60, "the second run does not say what it waits for")
        assert from_file(path, ("name=other",)).computed == 6
        assert second.is_alive()
    second.join(60)
    assert not second.is_alive() and Run(LocalStore(tmp_path / "set/out/store"), "one").steps()


def test_a_run_starts_at_a_stage_if_everything_before_is_in_the_store(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    path = write_small_set(tmp_path / "set")
    recipe = small_recipe(path.parent)
    with pytest.raises(FatalError, match="has no such stage; it has ingest, caption, parse"):
        end_to_end(recipe, start="tag")
    with pytest.raises(FatalError, match=r"ingest: 2 of 2 partitions are not in .*start at ingest"):
        end_to_end(recipe, start="caption")
    assert from_file(path).computed == 6
    shutil.rmtree(tmp_path / "set" / "out" / "store" / "artifacts" / "parse")
    state = end_to_end(recipe, start="parse", return_state=True)
    assert state.name == "Completed" and state.message == "2 partitions computed"
    stages = Counter(run.name for run in client.read_flow_runs() if run.parent_task_run_id is not None)
    assert (stages["ingest small"], stages["parse small"]) == (1, 2)


@pytest.mark.timeout(1200)
def test_stages_run_in_their_pools_and_what_would_wait_for_ever_is_refused(
    client: SyncPrefectClient, settings: PrefectServer, root: Path, tmp_path: Path
) -> None:
    folder = write_small_set(tmp_path / "set").parent
    recipe = small_recipe(folder)
    with pytest.raises(FatalError, match="no deployment ingest/ingest: create all of them"):
        on_pools(recipe)
    template = json.loads((root / "deploy" / "pools" / "kubernetes.json").read_bytes())
    client.create_work_pool(WorkPoolCreate(name="pods", type="kubernetes", base_job_template=template))
    client.upsert_global_concurrency_limit_by_name("gpu", 1)
    for pool in ("cpu", "gpu"):
        client.create_work_pool(WorkPoolCreate(**PROCESS_POOL, name=pool))
    deploying = PrefectServer(settings.api, {**settings.environment, "RLIP_ROOT": str(root)})
    names = [word for name in ("on_pools", "ingest", "caption", "parse") for word in ("--name", name)]
    deploying.command("deploy", *names, cwd=root)
    with pytest.raises(FatalError, match=r"has no worker online: start one \(prefect worker start --pool"):
        on_pools(recipe)
    client.update_work_pool("cpu", WorkPoolUpdate(concurrency_limit=1))
    with settings.worker("cpu", tmp_path / "cpu"), settings.worker("gpu", tmp_path / "gpu"):
        refused = _submit(client, recipe)
        state = wait_for(lambda: _final(client, refused), 120, "the run did not end")
        assert "work pool cpu of ingest/ingest has a concurrency limit of 1" in state, state
        assert not (folder / "out" / "store" / "runs").is_dir()
        client.update_work_pool("cpu", WorkPoolUpdate(concurrency_limit=2))
        run = _submit(client, recipe)
        state = wait_for(lambda: _final(client, run), 400, "the run did not end")
        assert "Cached" in state and (folder / "out" / "reports" / "small" / "index.html").is_file(), state


def _submit(client: SyncPrefectClient, recipe: object) -> FlowRun:
    deployment = client.read_deployment_by_name("on_pools/on_pools")
    return client.create_flow_run_from_deployment(deployment.id, parameters={"recipe": plain(recipe)})


def _final(client: SyncPrefectClient, run: FlowRun) -> str | None:
    """The final state and its message, once there is one."""
    state = client.read_flow_run(run.id).state
    return f"{state.name}: {state.message}" if state is not None and state.is_final() else None
