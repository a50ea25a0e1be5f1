"""`rlip run` with Prefect: the same bytes as without it, shown by a server that lasts as long as the run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect_server import client_environment
from small_set import small_recipe, write_small_set

from storage.runs import Run
from storage.store import Store


def _run(folder: Path, home: Path, *words: str) -> list[dict[str, Any]]:
    """`rlip run --json`; its events."""
    environment = client_environment(home)
    del environment["PREFECT_HOME"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("rlip")), "run", str(folder / "recipe.toml"), "--json", *words],
        env=environment | {"HOME": str(home)}, cwd=folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _contents(store: Path) -> dict[str, dict[str, str]]:
    run = Run(Store(store), "small")
    return {step: {part: a.content for part, a in run.artifacts(step).items()} for step in run.steps()}


@pytest.mark.timeout(280)
def test_prefect_changes_no_byte_shows_cached_states_and_leaves_nothing_running(tmp_path: Path) -> None:
    write_small_set(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    direct = tmp_path / "direct"
    _run(tmp_path, home, "--direct", "--set", f"store={direct}", "--set", f"reports={tmp_path}/direct-reports")
    _run(tmp_path, home)
    store = small_recipe(tmp_path).store
    assert _contents(store) == _contents(direct)
    assert set(_contents(store)) == {"ingest", "caption", "parse"}

    again = _run(tmp_path, home)
    assert [event["due"] for event in again if event.get("event") == "step"] == [0, 0, 0]
    records = sqlite3.connect(store.parent / "prefect" / "prefect.db")
    states = list(records.execute("select name, state_name from flow_run order by created"))
    assert [name for name, _ in states] == 2 * ["small", "ingest small", "caption small", "parse small"]
    assert [state for _, state in states] == 4 * ["Completed"] + 4 * ["Cached"]
    tasks = dict(records.execute("select name, state_name from task_run order by created"))
    assert tasks["ingest set/0000"] == tasks["ingest set/0001"] == "Completed"
    assert tasks["ingest set/0000 to set/0001"] == "Cached"
    keys = {key for (key,) in records.execute("select key from artifact")}
    assert {"progress-small-caption", "stages-small", "summary-small"} <= keys

    assert list(home.iterdir()) == []
    assert not [p for p in psutil.process_iter(["cwd", "cmdline"]) if str(tmp_path) in " ".join(_words(p))]


def _words(process: psutil.Process) -> list[str]:
    own = process.pid == os.getpid()
    return [] if own else [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
