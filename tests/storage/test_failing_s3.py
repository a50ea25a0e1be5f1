"""A real S3 client and a server that fails every fifth request: 500, 503, 409, or an answer lost after the work is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from toy_chain import bytes_of, run_chain
from werkzeug.serving import make_server

from storage.local_store import LocalStore
from storage.remote_store import RemoteStore

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


def test_a_run_on_a_failing_server_ends_as_an_undisturbed_one(failing: Failing, tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "local")
    run_chain(local)
    url = f"s3://failing/{uuid4().hex}"
    failing.at_work = True
    store = RemoteStore(url, tmp_path / "here", pauses=(0.01,) * 5)
    run_chain(store)
    run_chain(RemoteStore(url, tmp_path / "there", pauses=(0.01,) * 5))
    assert bytes_of(RemoteStore(url, tmp_path / "third", pauses=(0.01,) * 5)) == bytes_of(local)
    assert failing.failed > 10
