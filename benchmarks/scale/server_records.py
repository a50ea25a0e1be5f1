"""Asks a Prefect server, after a run, for all task runs that it has recorded."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from flows.server import TemporaryServer

PAGE = 200
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_COUNTS = re.compile(r"(\d+) cached, (\d+) computed")


@dataclass
class StageRecords:
    """The task runs of one flow run of a stage."""

    states: Counter[str] = field(default_factory=Counter)
    """Name of a state → task runs in it."""
    unfinished: int = 0
    """Task runs that are in no final state."""
    computed: int = 0
    """Partitions that the task runs say they computed."""


def recorded(home: Path) -> dict[str, list[StageRecords]]:
    """Stage → the task runs of each of its flow runs, oldest first, on the database that runs left in `home`."""
    with TemporaryServer(home, os.environ) as server:
        server.ready()
        flows = list(_all(server.api, "flow_runs/filter", sort="START_TIME_ASC"))
        tasks = list(_all(server.api, "task_runs/filter", sort="EXPECTED_START_TIME_ASC"))
    found: dict[str, StageRecords] = {flow["id"]: StageRecords() for flow in flows}
    for task in tasks:
        # A flow run within another has a task run of its own there, which is no block of partitions.
        if task["task_key"] in ("run_block", "run_whole") or task["task_key"].startswith(("run_block-", "run_whole-")):
            records = found[task["flow_run_id"]]
            records.states[task["state_name"]] += 1
            records.unfinished += task["state_type"] not in FINAL
            said = _COUNTS.match((task["state"] or {}).get("message") or "")
            records.computed += int(said[2]) if said else 0
    stages: dict[str, list[StageRecords]] = {}
    for flow in flows:
        stages.setdefault(flow["name"].partition(" ")[0], []).append(found[flow["id"]])
    return stages


def _all(api: str, path: str, **asked: Any) -> Iterator[dict[str, Any]]:
    """All rows of a filter, page by page."""
    offset = 0
    while True:
        answer = httpx.post(f"{api}/{path}", json={"limit": PAGE, "offset": offset, **asked}, timeout=60)
        answer.raise_for_status()
        rows = answer.json()
        yield from rows
        if len(rows) < PAGE:
            return
        offset += PAGE
