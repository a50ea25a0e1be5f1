"""Runs with their store on S3: killed on one machine and resumed on another; a server fails every fifth request."""

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
from small_set import write_small_set
from tiny_chain import World
from toy_chain import bytes_of, run_chain
from werkzeug.serving import make_server

from pipeline.cli.query import query
from pipeline.cli.store import verify
from pipeline.cli.why import why
from storage.local_store import LocalStore
from storage.object_store_artifacts import ObjectStoreArtifacts
from storage.remote_store import RemoteStore

IMAGES = 8


@pytest.fixture
def there(s3: str, root: Path, tmp_path: Path) -> World:
    """A small dataset with recorded captions, and an empty store on S3."""
    recipe = write_small_set(tmp_path / "data", IMAGES)
    data = recipe.parent
    recipe.write_text(recipe.read_text().replace(f'reports = "{data}/out/reports"', ""))  # they stand in the store
    return World(root, recipe, data, f"{s3}/{uuid4().hex}", "small")


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


def test_a_run_is_killed_resumed_elsewhere_and_looked_at_from_a_third_place(there, machine, printed, capsys):
    machine("one")
    _kill_after(there, "caption")
    remote = ObjectStoreArtifacts(str(there.store)).files
    remote.remove([f"claims/{name}" for name in remote.listing("claims")])  # as if the killed run's lease had expired
    machine("other")
    done = {event["step"]: event["due"] for event in there.run() if event.get("event") == "step"}
    assert done["ingest"] == 0 and done["caption"] < 2 and done["parse"] == 2
    machine("third")
    capsys.readouterr()
    assert there.due() == set()
    first, second = (there.data / "images" / f"00000{n}.png" for n in (1, 2))
    first.write_bytes(second.read_bytes())
    assert "ingest" in there.due()
    verify("small", repair=False, store=there.store, as_json=True)
    assert printed() == {"examined": 6, "damaged": [], "files": [], "removed": 0}
    query("small", "select count(*) as n from triplets", store=there.store, as_json=True)
    assert printed() == [{"n": IMAGES}]
    why("small", "parse", "set/0000", store=there.store, as_json=True)
    assert printed() == [{"partition": "set/0000", "causes": []}]


ANSWERS = {
    "500 Internal Server Error": "InternalError",
    "503 Service Unavailable": "SlowDown",
    "409 Conflict": "ConditionalRequestConflict",
}


class Failing:
    """Passes requests on to the real server. Every fifth fails before it gets there, or its answer is lost."""

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
