"""Runs with their store on S3: killed on one machine and resumed on another; a server that fails every fifth request."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from PIL import Image
from tiny_chain import World
from toy_chain import bytes_of, run_chain
from werkzeug.serving import make_server

from pipeline.cli.query import query
from pipeline.cli.store import verify
from pipeline.cli.why import why
from pipeline.run.context import RunContext
from pipeline.run.planner import Planner, forecast
from pipeline.run.recipe_files import load_recipe
from storage.local_store import LocalStore
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.remote_store import RemoteStore

RECIPE = """
name = "tiny"
[data]
partition_size = 2
label = ["coco"]
[[data.sources]]
name = "coco"
format = "coco"
images = "images"
annotations = "instances.json"
[caption]
captioner = "recorded"
recorded = ["captions.json"]
[pretrain]
variants = []
[run]
workers = 1
"""
IMAGES = 4


@pytest.fixture
def there(s3: str, root: Path, tmp_path: Path) -> World:
    """A small dataset with recorded captions, and an empty store on S3."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    ids = range(1, IMAGES + 1)
    for n in ids:
        Image.new("RGB", (32, 32), (n, n, n)).save(data / "images" / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 32} for n in ids]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 2, 9, 9]} for n in ids]
    sets = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}
    captions = [{"image_id": n, "id": n, "caption": "a man riding a horse"} for n in ids]
    (data / "instances.json").write_text(json.dumps(sets))
    (data / "captions.json").write_text(json.dumps({"annotations": captions}))
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return World(root, tmp_path / "tiny.toml", data, f"{s3}/{uuid4().hex}")


def _kill_after(world: World, step: str) -> None:
    process = world.start()
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == "committed" and event["step"] == step:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    process.wait(timeout=60)


def _due(world: World, *overrides: str) -> dict[str, int | None]:
    recipe = load_recipe(world.recipe, [f"data.root={world.data}", f"store={world.store}", *overrides])
    return {step.step: step.due for step in forecast(Planner(RunContext(recipe))) if step.due != 0}


def test_a_run_is_killed_resumed_elsewhere_and_looked_at_from_a_third_place(there, machine, tmp_path, capsys):
    machine("one")
    _kill_after(there, "caption")
    remote = ObjectStoreArtifacts(str(there.store)).files
    remote.remove([f"claims/{name}" for name in remote.listing("claims")])  # as if the killed run's lease had expired
    machine("other")
    done = {event["step"]: event["due"] for event in there.run() if event.get("event") == "step"}
    assert done["ingest"] == 0 and done["caption"] < 2 and done["parse"] == 2
    machine("third")
    capsys.readouterr()

    def printed() -> Any:
        return json.loads(capsys.readouterr().out)

    assert _due(there) == {}
    (tmp_path / "data" / "images" / "1.png").write_bytes((tmp_path / "data" / "images" / "2.png").read_bytes())
    assert _due(there)["ingest"] == 1
    verify("tiny", repair=False, store=there.store, as_json=True)
    assert printed() == {"examined": 6, "damaged": [], "files": [], "removed": 0}
    query("tiny", "select count(*) as n from triplets", store=there.store, as_json=True)
    assert printed() == [{"n": IMAGES}]
    why("tiny", "parse", "coco/0000", store=there.store, as_json=True)
    assert printed() == [{"partition": "coco/0000", "causes": []}]


def _tables(world: World) -> dict[str, dict[str, str]]:
    """Step and partition → digest of every file, as seen by a machine that has no copies."""
    return {
        f"{step} {partition}": {name: entry.digest for name, entry in artifact.manifest.files.items()}
        for step, found in world.artifacts().items()
        for partition, artifact in found.items()
    }


@pytest.mark.timeout(1800)
def test_two_runs_at_once_on_two_machines_end_with_the_bytes_of_one_alone(there, machine, tmp_path, capsys):
    alone = World(there.root, there.recipe, there.data, tmp_path / "alone")
    alone.run()
    runs = []
    for name in ("one", "other"):
        machine(name)
        runs.append(there.start())
    outputs = [run.communicate(timeout=280) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    machine("third")
    assert _tables(there) == _tables(alone)
    verify("tiny", repair=False, store=there.store, as_json=True)
    assert json.loads(capsys.readouterr().out)["damaged"] == []


ANSWERS = {
    "500 Internal Server Error": "InternalError",
    "503 Service Unavailable": "SlowDown",
    "409 Conflict": "ConditionalRequestConflict",
}


class Failing:
    """Passes requests on to the real server. Every fifth fails before it gets there, or its answer is lost afterwards."""

    def __init__(self, server: Callable[..., Iterable[bytes]]) -> None:
        self.server = server
        self.requests = count(1)
        self.faults = cycle([*ANSWERS, "lost"])
        self.failed = 0
        self.at_work = False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self.at_work or next(self.requests) % 5:
            return self.server(environ, start_response)
        self.failed += 1
        fault = next(self.faults)
        if fault == "lost":
            list(self.server(environ, lambda *given: None))
            fault = "503 Service Unavailable"
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{ANSWERS[fault]}</Code><Message>no</Message></Error>".encode()
        start_response(fault, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """The failing server on loopback, with a bucket."""
    application = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("failing")
    yield application
    server.shutdown()


def test_a_run_on_a_failing_server_ends_as_an_undisturbed_one(failing, tmp_path):
    local = LocalStore(tmp_path / "local")
    run_chain(local)
    url = f"s3://failing/{uuid4().hex}"
    failing.at_work = True
    store = RemoteStore(url, tmp_path / "here", pauses=(0.01,) * 5)
    run_chain(store)
    run_chain(RemoteStore(url, tmp_path / "there", pauses=(0.01,) * 5))
    assert bytes_of(RemoteStore(url, tmp_path / "third", pauses=(0.01,) * 5)) == bytes_of(local)
    assert failing.failed > 10
