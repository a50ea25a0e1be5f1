"""`rlip run` with Prefect: the same bytes as without it, displayed by a server that lives as long as the run.

This takes more than a minute: each run is a process of its own that imports Prefect and starts a server.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_server import client_environment, wait_for
from small_set import processes_on, small_recipe, train_long, write_small_set
from sockets import sockets_of

from storage.local_store import LocalStore
from storage.runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset, its recipe, and the home of a user who has never used Prefect."""
    folder = tmp_path_factory.mktemp("run") / "set"
    write_small_set(folder)
    (folder / "home").mkdir()
    return folder


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `rlip run --json` as a terminal does, in its own process group."""
    environment = client_environment(folder)
    del environment["PREFECT_HOME"]
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("rlip")), "run", str(folder / "recipe.toml"), "--json", *words],
        env=environment | {"HOME": str(folder / "home")}, cwd=folder, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _run(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Run to the end and return the events. Without Prefect it has no socket at all, with it none beyond loopback."""
    process = _start(folder, *words)
    with sockets_of(process.pid) as sockets:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert sockets == set() if "--direct" in words else sockets and sockets <= {"127.0.0.1", "::1"}
    return [json.loads(line) for line in out.splitlines()]


def _contents(store: Path) -> dict[str, dict[str, str]]:
    run = Run(LocalStore(store), "small")
    return {step: {part: a.content for part, a in run.artifacts(step).items()} for step in run.steps()}


def _records(folder: Path, query: str) -> list[Any]:
    """Query the database that the temporary server kept beside the store."""
    return list(sqlite3.connect(folder / "out" / "prefect" / "prefect.db").execute(query))


@pytest.mark.timeout(1800)
def test_prefect_changes_no_byte_shows_cached_states_and_leaves_nothing_running(folder: Path) -> None:
    direct = folder / "direct"
    _run(folder, "--direct", "--set", f"store={direct}", "--set", f"reports={folder}/direct-reports")
    _run(folder)
    store = Path(small_recipe(folder).store)
    assert _contents(store) == _contents(direct)
    assert set(_contents(store)) == {"ingest", "caption", "parse"}

    again = _run(folder)
    assert [event["due"] for event in again if event.get("event") == "step"] == [0, 0, 0]
    states = _records(folder, "select name, state_name from flow_run order by created")
    assert [name for name, _ in states] == 2 * ["small", "ingest small", "caption small", "parse small"]
    assert [state for _, state in states] == 4 * ["Completed"] + 4 * ["Cached"]
    tasks = dict(_records(folder, "select name, state_name from task_run order by created"))
    assert tasks["ingest set/0000"] == tasks["ingest set/0001"] == "Completed"
    assert tasks["ingest set/0000 to set/0001"] == "Cached"
    keys = {key for (key,) in _records(folder, "select key from artifact")}
    assert {"progress-small-caption", "stages-small", "summary-small"} <= keys
    ends = _records(
        folder, "select resource_id, payload from events where event = 'rlip.step.completed' order by occurred"
    )
    assert [step for step, _ in ends] == 2 * [f"rlip.step.small.{step}" for step in ("ingest", "caption", "parse")]
    assert [json.loads(payload)["cached"] for _, payload in ends] == [0, 0, 0, 2, 2, 2]
    links = _records(folder, "select flow_run_id, data from artifact where key = 'report-small'")
    assert len({run for run, _ in links}) == len(states), "each flow run links the report"
    assert all(str(folder / "out" / "reports" / "small" / "index.html") in data for _, data in links)

    assert list((folder / "home").iterdir()) == []
    assert processes_on(folder) == []


def _server(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `rlip cluster server` on the store of the recipe."""
    environment = client_environment(folder)
    del environment["PREFECT_HOME"]
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("rlip")), "cluster", "server", "--store", str(folder / "out" / "store"), *words],
        env=environment | {"HOME": str(folder / "home")}, cwd=folder, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_pages_of_a_run_can_be_opened_after_it(folder: Path) -> None:
    ((last,),) = _records(
        folder, "select id from flow_run where parent_task_run_id is null order by created desc limit 1"
    )
    process = _server(folder)
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(2)]
    assert lines[1].startswith("Last flow run, small: http://127.0.0.1:") and lines[1].endswith(str(last)), lines
    pages = lines[0].removeprefix("Prefect: ")
    assert httpx.get(f"{pages}/api/flow_runs/{last}").json()["name"] == "small"
    shared = {
        origin: httpx.get(f"{pages}/api/health", headers={"Origin": origin}).headers.get("access-control-allow-origin")
        for origin in (pages, "http://elsewhere.example")
    }
    assert shared == {pages: pages, "http://elsewhere.example": None}, "no page of another origin may read"
    written = httpx.post(
        f"{pages}/api/flow_runs/{last}/set_state", headers={"Origin": "http://elsewhere.example"},
        content=b'{"state": {"type": "CANCELLED"}, "force": true}',
    )  # fmt: skip
    assert written.status_code == 403, "nor write to it, as browsers let it try without a Content-Type"
    page = httpx.get(lines[1].rpartition(" ")[2], headers={"Accept": "text/html"})
    assert page.status_code == 200 and "<html" in page.text
    taken = _server(folder, "--port", pages.rpartition(":")[2])
    assert "choose another port" in taken.communicate(timeout=60)[1] and taken.returncode == 1
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    wait_for(lambda: not processes_on(folder) or None, 20, "the server is still running")


@pytest.mark.parametrize("command", ["server", "run"])
def test_a_database_of_a_newer_prefect_is_told_and_kept(folder: Path, tmp_path: Path, command: str) -> None:
    write_small_set(tmp_path / "set")
    (tmp_path / "set" / "home").mkdir()
    copy = tmp_path / "set" / "out" / "prefect" / "prefect.db"
    copy.parent.mkdir(parents=True)
    with sqlite3.connect(folder / "out" / "prefect" / "prefect.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    with sqlite3.connect(copy) as database:
        database.execute("update alembic_version set version_num = 'f0f0f0f0f0f0'")
    process = _server(tmp_path / "set") if command == "server" else _start(tmp_path / "set")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "a newer Prefect wrote this database (revision f0f0f0f0f0f0)" in err, err
    assert copy.is_file()


def test_before_any_run_there_is_no_database_to_serve(tmp_path: Path) -> None:
    _, err = _server(tmp_path).communicate(timeout=60)
    assert "prefect.db: no such database yet; `rlip run` writes it" in err and "Traceback" not in err


@pytest.mark.timeout(1800)
def test_ctrl_c_in_a_training_writes_a_checkpoint_says_how_to_resume_and_leaves_nothing_running(folder: Path) -> None:
    train_long(folder)
    process = _start(folder)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["step"] == "pretrain:none":
            break
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command again to resume" in err and "Traceback" not in err
    assert list((folder / "out" / "store" / "pending").glob("scratch-*/checkpoints/step-*"))
    ((state,),) = _records(folder, "select state_type from flow_run where name = 'pretrain small'")
    assert state == "CRASHED"
    wait_for(lambda: not processes_on(folder) or None, 20, "processes of the stopped run are still running")


@pytest.mark.timeout(1800)
def test_an_error_reaches_the_terminal_once_and_in_its_own_words(folder: Path) -> None:
    process = _start(folder, "--set", "run.checks.max_overall_reject_share=0", "--set", "ingest.limits.max_pixels=16")
    _, err = process.communicate(timeout=280)
    assert process.returncode == 1
    assert "While it lasts, Prefect shows this run at http://127.0.0.1:" in err
    assert "run.checks.max_overall_reject_share" in err and err.count("Error:") == 1 and "Traceback" not in err
