"""Measures a run in a new folder, repeating it, and the commands that look at it: `python benchmarks/chain.py [RECIPE]`.

Memory is the proportional set size (shared pages count once) of the command and its descendants, sampled every second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """Measurements of one call of the command."""

    what: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    computed: int
    """Number of partitions that were not in the store."""


def measure(what: str, command: list[str]) -> tuple[Measured, dict[str, Any]]:
    """Runs a command whose last line of output is its outcome as JSON. Raises CalledProcessError if it fails."""
    before = os.times()
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(_proportional_mib(pid) for pid in _family(process.pid)))
            time.sleep(1.0)
        seconds = time.monotonic() - began
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        outcome: dict[str, Any] = json.loads(out.read().splitlines()[-1])
    cpu = _cpu_seconds_since(before)
    return Measured(what, round(seconds, 1), round(cpu, 1), round(peak), outcome["computed"]), outcome


def cpu_seconds(command: list[str]) -> float:
    """Runs a command and returns the CPU-seconds that it took. Raises CalledProcessError if it fails."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return round(_cpu_seconds_since(before), 2)


def _cpu_seconds_since(before: os.times_result) -> float:
    """Returns the CPU-seconds of the children of this process that have ended since."""
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _family(pid: int) -> list[int]:
    """Returns a process and all its live descendants."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(child))]


def _proportional_mib(pid: int) -> float:
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/demo.toml"))
    given = parser.parse_args()
    rlip = str(Path(sys.executable).with_name("rlip"))
    with tempfile.TemporaryDirectory() as folder:
        places = {"store": "store", "reports": "reports", "data.root": "data"}
        sets = [word for name, place in places.items() for word in ("--set", f"{name}={folder}/{place}")]
        command = [rlip, "run", str(given.recipe), "--json", *sets]
        first, outcome = measure("first run", command)
        again, _ = measure("again, with Prefect", command)
        direct, _ = measure("again, --direct", [*command, "--direct"])
        place = ["--store", f"{folder}/store"]
        looks = {
            "plan": [str(given.recipe), *sets],
            "estimate": [str(given.recipe), *sets],
            "doctor": [str(given.recipe), *sets],
            "show --history": place,
            "show": [outcome["run"], *place],
            "query": [outcome["run"], "select count(*) from images", *place],
            "parse": ["a man riding a horse"],
        }
        light = {name: cpu_seconds([rlip, *name.split(), *words]) for name, words in looks.items()}
    calls = (first, again, direct)
    print(f"{'':22}{'seconds':>10}{'CPU s':>10}{'peak MiB':>10}{'computed':>10}")
    for call in calls:
        print(f"{call.what:22}{call.seconds:10}{call.cpu_seconds:10}{call.peak_mib:10}{call.computed:10}")
    print(f"\n{'command':32}{'CPU s':>10}")
    for name, seconds in light.items():
        print(f"{name:32}{seconds:10}")
    print(f"\n{'stage':22}{'seconds':>10}{'images/s':>10}")
    for stage in outcome["stages"]:
        print(f"{stage['step']:22}{stage['seconds']:10}{stage['rate']:10}")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(
        json.dumps(
            {"machine": machine, "calls": [asdict(call) for call in calls], "commands": light, "outcome": outcome}
        )
    )


if __name__ == "__main__":
    main()
