"""`rlip run` with Prefect: the same bytes as without it, displayed by a server that lives as long as the run.

This takes about a minute, because each run is a process of its own that imports Prefect and starts a server.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import psutil
import pytest
from rlip_command import rlip, started
from small_set import processes_on, small_recipe, train_long, write_small_set
from warm_process import wait_for

from storage.local_store import LocalStore
from storage.runs import Run

PAUSE = 0.5
"""Seconds between looks. Servers, and the stores at which ranks meet, last much longer."""


@contextmanager
def sockets_of(pid: int) -> Iterator[set[str]]:
    """Looks again and again while the context lasts. Yields the IP addresses of both ends, which grow meanwhile."""
    found: set[str] = set()
    done = Event()

    def look() -> None:
        while not done.wait(PAUSE):
            with suppress(psutil.Error):
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.Error):
                        ends = [end for each in process.net_connections("inet") for end in (each.laddr, each.raddr)]
                        found.update(end.ip for end in ends if end)

    looking = Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        done.set()
        looking.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small dataset and its recipe. This process becomes that of a user whose home has never seen Prefect."""
    folder = tmp_path_factory.mktemp("run") / "set"
    write_small_set(folder)
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT")]:
            patch.delenv(name)
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


def _start(*words: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start `rlip` as a terminal does, in its own process group."""
    # A copy of the environment: without one, exec reads C's, and once ended in EFAULT beside another thread's start.
    return subprocess.Popen(
        [Path(sys.executable).with_name("rlip"), *words], cwd=cwd, env=dict(os.environ), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _run(folder: Path, *words: str | Path) -> None:
    """Run to the end. Without Prefect the run has no socket at all, with it none beyond loopback."""
    is_direct = "--direct" in words
    process = (started if is_direct else _start)("run", folder / "recipe.toml", *words, cwd=folder)
    # All processes of a fork are forks of one parent.
    with sockets_of(psutil.Process(process.pid).ppid() if is_direct else process.pid) as sockets:
        _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert sockets == set() if is_direct else sockets and sockets <= {"127.0.0.1", "::1"}


def _contents(store: Path) -> dict[str, dict[str, str]]:
    run = Run(LocalStore(store), "small")
    return {step: {part: a.content for part, a in run.artifacts(step).items()} for step in run.steps()}


def _records(folder: Path, query: str) -> list[Any]:
    """Query the database that the temporary server kept beside the store."""
    return list(sqlite3.connect(folder / "out" / "prefect" / "prefect.db").execute(query))


@pytest.mark.timeout(1800)
def test_prefect_changes_no_byte_and_leaves_nothing_running(folder):
    direct = folder / "direct"
    with ThreadPoolExecutor(2) as pool:
        without = ("--direct", "--set", f"store={direct}", "--set", f"reports={folder}/direct-reports")
        for run in [pool.submit(_run, folder), pool.submit(_run, folder, *without)]:
            run.result()
    store = Path(small_recipe(folder).store)
    assert _contents(store) == _contents(direct)
    assert set(_contents(store)) == {"ingest", "caption", "parse"}
    states = _records(folder, "select name, state_name from flow_run order by created")
    assert states == [(name, "Completed") for name in ("small", "ingest small", "caption small", "parse small")]
    tasks = dict(_records(folder, "select name, state_name from task_run order by created"))
    assert tasks["ingest set/0000"] == tasks["ingest set/0001"] == "Completed"
    keys = {key for (key,) in _records(folder, "select key from artifact")}
    assert {"progress-small-caption", "stages-small", "summary-small"} <= keys
    links = _records(folder, "select flow_run_id, data from artifact where key = 'report-small'")
    assert len({run for run, _ in links}) == len(states), "each flow run links the report"
    assert all(str(folder / "out" / "reports" / "small" / "index.html") in data for _, data in links)
    assert list((folder / "home").iterdir()) == []
    assert processes_on(folder) == []


@pytest.mark.timeout(1800)
def test_ctrl_c_in_a_training_writes_a_checkpoint_says_how_to_resume_and_leaves_nothing_running(folder):
    train_long(folder)
    process = _start("run", folder / "recipe.toml", "--json", cwd=folder)
    due = {}
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "step":
            due[event["step"]] = event["due"]
        if event["event"] == "progress" and event["step"] == "pretrain:none":
            break
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Follow this run in Prefect at http://127.0.0.1:" in err
    assert "run the same command again to resume" in err and "Traceback" not in err
    assert list((folder / "out" / "store" / "pending").glob("scratch-*/checkpoints/step-*"))
    wait_for(lambda: not processes_on(folder) or None, "processes of the stopped run are still running")

    assert due == {"ingest": 0, "shard:none": 2, "pretrain:none": 1}, "the earlier run is reused"
    states = dict(_records(folder, "select name, state_name from flow_run order by created"))
    assert states["ingest small"] == "Cached" and states["shard small"] == "Completed"
    assert _records(folder, "select state_type from flow_run where name = 'pretrain small'") == [("CRASHED",)]
    tasks = dict(_records(folder, "select name, state_name from task_run order by created"))
    assert tasks["ingest set/0000 to set/0001"] == "Cached"
    ends = _records(
        folder, "select resource_id, payload from events where event = 'rlip.step.completed' order by occurred"
    )
    completed = [(name.removeprefix("rlip.step.small."), json.loads(payload)["cached"]) for name, payload in ends]
    assert completed[:3] == [("ingest", 0), ("caption", 0), ("parse", 0)]
    assert completed[3:] == [("ingest", 2), ("shard:none", 0)]


@pytest.fixture(scope="module")
def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """The address of `rlip cluster server` on the records of the run, and its line about the last flow run."""
    process = started("cluster", "server", "--store", folder / "out" / "store", "--port", "0", cwd=folder)
    lines = [process.stdout.readline().strip() for _ in range(2)]
    yield lines[0].removeprefix("Prefect: "), lines[1]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    wait_for(lambda: not processes_on(folder) or None, "the server is still running")


def test_the_pages_of_a_run_can_be_opened_after_it(folder, pages):
    address, line = pages
    ((last,),) = _records(folder, "select id from flow_run where name = 'small' order by created desc limit 1")
    assert line.startswith("Last flow run, small: http://127.0.0.1:") and line.endswith(str(last)), line
    assert httpx.get(f"{address}/api/flow_runs/{last}").json()["name"] == "small"
    allowed = {
        origin: httpx.get(f"{address}/api/health", headers={"Origin": origin}).headers.get(
            "access-control-allow-origin"
        )
        for origin in (address, "http://elsewhere.example")
    }
    assert allowed == {address: address, "http://elsewhere.example": None}, "no page of another origin may read"
    written = httpx.post(
        f"{address}/api/flow_runs/{last}/set_state",
        headers={"Origin": "http://elsewhere.example"},
        content=b'{"state": {"type": "CANCELLED"}, "force": true}',
    )
    assert written.status_code == 403, "nor write to it, as browsers let it try without a Content-Type"
    page = httpx.get(line.rpartition(" ")[2], headers={"Accept": "text/html"})
    assert page.status_code == 200 and "<html" in page.text
    taken = rlip("cluster", "server", "--store", folder / "out" / "store", "--port", address.rpartition(":")[2])
    assert "choose another port" in taken.stderr and taken.exit_code == 1


def test_an_error_reaches_the_terminal_once_and_in_its_own_words(folder, pages, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"{pages[0]}/api")
    refused = ("--set", "run.checks.max_overall_reject_share=0", "--set", "ingest.limits.max_pixels=16")
    process = started("run", folder / "recipe.toml", *refused, cwd=folder)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 1
    assert f"Follow this run in Prefect at {pages[0]}" in err
    assert "run.checks.max_overall_reject_share" in err and err.count("Error:") == 1 and "Traceback" not in err


def test_a_database_of_a_newer_prefect_is_named_and_kept(folder, tmp_path):
    recipe = write_small_set(tmp_path / "set")
    copy = tmp_path / "set" / "out" / "prefect" / "prefect.db"
    copy.parent.mkdir(parents=True)
    with sqlite3.connect(folder / "out" / "prefect" / "prefect.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    with sqlite3.connect(copy) as database:
        database.execute("update alembic_version set version_num = 'f0f0f0f0f0f0'")
    done = rlip("run", recipe)
    assert done.exit_code == 1
    assert "a newer Prefect wrote this database (revision f0f0f0f0f0f0)" in done.stderr, done.stderr
    assert copy.is_file()


def test_before_any_run_there_is_no_database_to_serve(folder, tmp_path):
    done = rlip("cluster", "server", "--store", tmp_path / "store")
    assert "prefect.db: no such database yet; `rlip run` writes it" in done.stderr and done.exit_code == 1
