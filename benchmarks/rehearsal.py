"""Rehearses the whole chain at scale: `python -m benchmarks.rehearsal` (`--images 1820000`: the size of Objects365, hours).

Only networks are replaced, inside the same stage classes: the captioner by a stand-in behind LAVIS's pipes that waits
`--seconds` an image (`scale/captioner.py`), the tagger by the method "prior". The pre-training takes two steps with a tiny
network, since only what comes before and between steps depends on the number of images. For each size:

first    a run with Prefect in a new store; then the server is asked for all task runs
again    the same run, which computes nothing
one %    one per cent more images, and the run again
review   `rlip review`, from its start to its first pages

`--partitions 2050` adds a run of so many small partitions, for what grows with their number.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.review import PASSWORD, serving
from benchmarks.review_clients import Reviewer
from benchmarks.scale.processes import Measured, run_measured
from benchmarks.scale.server_records import StageRecords, recorded
from benchmarks.scale.world import NAME, World

FULL = 1_820_000
DEFAULT = (18_200, 36_400)
BLOCKS = 256
"""Task runs of a step, at most."""
MOST_MIB, MOST_SECONDS = 2048, 60
"""Goals: the memory of each process, and the time of a run that computes nothing."""
PAGES = {
    "overview": "",
    "labels": "labels",
    "a predicate": "labels?predicate=ride&order=score",
    "images": "images/rows?start=0&size=60",
}


def rehearse(world: World, reviewed: bool) -> dict[str, Any]:
    """Runs everything on a world that is written here. Returns the figures."""
    began = time.monotonic()
    world.write()
    figures: dict[str, Any] = {"images": world.images, "partition": world.partition}
    figures["written_seconds"] = round(time.monotonic() - began, 1)
    command = ("run", str(world.recipe), "--json")
    first = run_measured(*command)
    again = run_measured(*command)
    more = -(-world.images // 100)
    world.add(world.images, world.images + more)
    added = run_measured(*command)
    figures |= {"first": _figures(first), "again": _figures(again), "added": _figures(added), "added_images": more}
    figures["prefect"] = _records(recorded(world.folder / "prefect"), (first, again, added))
    sizes = (path.stat().st_size for path in (world.folder / "store").rglob("*") if path.is_file())
    figures["store_mb"] = round(sum(sizes) / 1e6)
    if reviewed:
        figures["review"] = _review(world)
    return figures


def _figures(ran: Measured) -> dict[str, Any]:
    return {
        "seconds": round(ran.seconds, 1),
        "cpu_seconds": round(ran.cpu_seconds, 1),
        "computed": {name: step["partitions"] - (step["cached"] or 0) for name, step in ran.steps.items()},
        "partitions": {name: step["partitions"] for name, step in ran.steps.items()},
        "phases": {name: round(seconds, 1) for name, seconds in ran.phases.items()},
        "peak_mib": ran.peak_mib,
        "cpu": {role: round(seconds, 1) for role, seconds in ran.cpu.items()},
    }


def _records(found: dict[str, list[StageRecords]], runs: Sequence[Measured]) -> dict[str, Any]:
    """Step → the states of its task runs in each run. Raises `AssertionError` if the server lost any or some did not end."""
    figures: dict[str, Any] = {}
    for step in runs[0].steps:
        stage = step.partition(":")[0]
        assert len(found[stage]) == len(runs), f"{stage}: {len(found[stage])} flow runs of {len(runs)} are recorded"
        for records, ran in zip(found[stage], runs, strict=True):
            partitions = ran.steps[step]["partitions"]
            due = partitions - (ran.steps[step]["cached"] or 0)
            blocks = min(partitions, BLOCKS) if due else 1
            assert records.states.total() == blocks, f"{stage}: {records}, {blocks} task runs are expected"
            assert not records.unfinished, f"{stage}: {records}, some have no final state"
            assert records.computed == due, f"{stage}: {records}, {due} partitions were due"
        figures[step] = [dict(records.states) for records in found[stage]]
    return figures


def _review(world: World) -> dict[str, Any]:
    """Seconds until the review page answers without an index, and of pages that no one has opened."""
    with serving(world.folder, NAME) as (page, memory, built):
        reviewer = Reviewer(page, "reviewer", PASSWORD, ["ride"])
        pages = {}
        for name, address in PAGES.items():
            began = time.perf_counter()
            reviewer.open(address)
            pages[name] = round(time.perf_counter() - began, 3)
        return {"index_seconds": round(built, 1), "pages": pages, "peak_mib": round(memory.resident / 2**20)}


def print_tables(figures: dict[str, Any]) -> None:
    first, again, added = (figures[name] for name in ("first", "again", "added"))
    print(f"\n{figures['images']:,} images, partitions of {figures['partition']:,}; store {figures['store_mb']:,} MB")
    print(f"{'seconds':20}{'first':>8}{'again':>8}{'1 %':>8}{'partitions':>12}{'of 1 %':>8}  task runs of each")
    for phase in first["phases"]:
        line = f"{phase:20}" + "".join(f"{of['phases'].get(phase, 0.0):8.1f}" for of in (first, again, added))
        if phase in first["partitions"]:
            line += f"{first['partitions'][phase]:12,}{added['computed'][phase]:8}  {figures['prefect'][phase]}"
        print(line)
    print(f"{'all':20}" + "".join(f"{of['seconds']:8.1f}" for of in (first, again, added)))
    print(f"\n{'':28}{'peak MiB':>9}{'CPU s':>9}{'CPU ms/image':>14}")
    for role, peak in first["peak_mib"].items():
        cpu = first["cpu"][role]
        print(f"{role:28}{peak:9,}{cpu:9.1f}{1000 * cpu / figures['images']:14.2f}")
    most = max(peak for of in (first, again, added) for peak in of["peak_mib"].values())
    print(f"largest process: {most:,} MiB (goal: {MOST_MIB:,}); again: {again['seconds']} s (goal: {MOST_SECONDS})")
    if "review" in figures:
        print(f"review: {figures['review']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=DEFAULT, help=f"sizes to run; full: {FULL:,}")
    parser.add_argument("--partitions", type=int, default=2050, help="partitions of 5 images in a further run; 0: none")
    parser.add_argument("--seconds", type=float, default=0.0, help="what the stand-in takes for an image")
    parser.add_argument("--draws", type=int, default=2, help="captions of an image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="parent of the work folder; 100,000 images take 1 GB there")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes = [(images, 1000, True) for images in given.images]
    sizes += [(5 * given.partitions, 5, False)] if given.partitions else []
    found = []
    for images, partition, reviewed in sizes:
        folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=given.folder))  # stays for a look if something fails
        found.append(rehearse(World(folder, images, partition, given.draws, given.workers, given.seconds), reviewed))
        shutil.rmtree(folder)
        print_tables(found[-1])
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"sizes": found, "machine": machine, "load": os.getloadavg()}, indent=1))


if __name__ == "__main__":
    main()
