"""Which server a run connects to, and the error if none answers."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.metadata import requires
from pathlib import Path
from unittest.mock import Mock
from urllib.request import getproxies

import httpx
import pytest
from http_server import answering
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.connection import SUPPORTED, configured, connected
from flows.server import DATABASE, _last_run, answers, free_port
from storage.errors import FatalError, RetryableError


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The environment of a user who has never configured Prefect. Returns their home folder."""
    for name in list(os.environ):
        if name.startswith("PREFECT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def serve() -> Iterator[Callable[[int, str], str]]:
    """A function that starts a server with one answer to everything, and returns the URL of its API."""
    with ExitStack() as servers:
        yield lambda status, text: servers.enter_context(answering(lambda *_: (status, text.encode()))) + "/api"


def test_a_silent_server_is_named_with_the_ways_out(no_settings, monkeypatch):
    address = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    before = dict(os.environ)
    with pytest.raises(FatalError) as caught, connected(no_settings / "prefect"):
        pass
    for word in (address, "prefect server start", "unset PREFECT_API_URL", "--direct"):
        assert word in str(caught.value)
    assert dict(os.environ) == before
    assert not (no_settings / "prefect").exists()


@pytest.mark.parametrize(
    ("status", "answer", "complaint"),
    [
        (200, '"3.4.1"', r"is Prefect 3\.4\.1, and this project needs .*upgrade the server"),
        (200, '"4.0.0"', r"is Prefect 4\.0\.0"),
        (200, "<html>", "not the API of a Prefect server"),
        (200, '"welcome"', "not a Prefect server"),
        (404, "", "no API of a Prefect server there"),
        (500, "", "answers HTTP 500; look at its log"),
    ],
)
def test_what_answers_but_is_no_server_for_this_project_is_named(
    no_settings, monkeypatch, serve, status, answer, complaint
):
    monkeypatch.setenv("PREFECT_API_URL", serve(status, answer))
    with pytest.raises(FatalError, match=complaint), connected(no_settings / "prefect"):
        pass


@pytest.mark.parametrize("status, error, words", [
    (0, RetryableError, r"no longer responds \(refused\).*start the server, or run with --direct"),
    (500, RetryableError, r"fails or no longer responds \(Server error '500 "),
    (409, httpx.HTTPStatusError, "409 Conflict"),
])  # fmt: skip
def test_a_server_that_is_lost_or_fails_during_a_run_is_reported(no_settings, monkeypatch, serve, status, error, words):
    monkeypatch.setenv("PREFECT_API_URL", serve(200, '"3.9.1"'))
    with pytest.raises(error, match=words), connected(no_settings / "prefect"):
        if not status:
            raise httpx.ConnectError("refused")
        httpx.Response(status, request=httpx.Request("GET", "http://prefect"), text="locked").raise_for_status()


def test_a_server_of_this_machine_is_reached_past_a_proxy(no_settings, monkeypatch, serve):
    monkeypatch.setenv("PREFECT_API_URL", api := serve(200, '"3.9.1"'))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "office.example")
    assert answers(api, seconds=2)
    with connected(no_settings / "prefect"):
        assert httpx.get(api).status_code == 200
        assert getproxies()["no"] == "127.0.0.1,localhost,office.example"


def test_the_last_flow_run_is_found_in_a_folder_of_any_name(tmp_path):
    database = tmp_path / "50%20#1?" / DATABASE
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table flow_run (id, name, parent_task_run_id, created)")
        connection.execute("insert into flow_run values (7, 'demo', null, 1)")
    assert _last_run(database) == [("demo", "7")]


def test_an_address_without_http_is_refused(no_settings, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "127.0.0.1:4200/api")
    with pytest.raises(FatalError, match="not a URL; write http"), connected(no_settings / "prefect"):
        pass


def test_servers_are_supported_in_the_versions_that_the_package_asks_for():
    (asked,) = [Requirement(each) for each in requires("rlip") or () if Requirement(each).name == "prefect"]
    assert asked.specifier == SpecifierSet(str(SUPPORTED))


def test_a_server_set_in_the_active_profile_counts(no_settings, monkeypatch):
    assert configured("PREFECT_API_URL") is None
    profiles = no_settings / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text(
        'active = "office"\n[profiles.office]\nPREFECT_API_URL = "http://prefect.example/api"\n[profiles.bare]\n'
    )
    assert configured("PREFECT_API_URL") == "http://prefect.example/api"
    monkeypatch.setenv("PREFECT_PROFILE", "bare")
    assert configured("PREFECT_API_URL") is None


def test_a_folder_that_can_not_be_written_or_locked_is_named(no_settings, monkeypatch):
    (no_settings / "file").touch()
    with pytest.raises(FatalError, match="file"), connected(no_settings / "file" / "prefect"):
        pass
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(FatalError, match=r"prefect: .*\(No locks available\)"), connected(no_settings / "prefect"):
        pass
