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
GOALS = {"task runs": 256, "mib": 2048, "again": 60.0}
PAGES = {
    "overview": "/",
    "labels": "/labels",
    "a predicate": "/labels?predicate=ride&order=score",
    "images": "/images/rows?start=0&size=60",
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
    figures["store_mb"] = round(sum(path.stat().st_size for path in _files(world.folder / "store")) / 1e6)
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
    }


def _records(found: dict[str, list[StageRecords]], runs: Sequence[Measured]) -> dict[str, Any]:
    """What the server has of each stage in each run. Raises `AssertionError` if it lost anything."""
    figures: dict[str, Any] = {}
    for step, of in runs[0].steps.items():
        stage = step.partition(":")[0]
        assert len(found[stage]) == len(runs), f"{stage}: {len(found[stage])} flow runs of {len(runs)} are recorded"
        for records, ran in zip(found[stage], runs, strict=True):
            due = ran.steps[step]["partitions"] - (ran.steps[step]["cached"] or 0)
            blocks = min(of["partitions"] if due else 1, GOALS["task runs"])
            assert not records.unfinished, f"{stage}: {records}"
            assert records.computed == due, f"{stage}: task runs computed {records.computed} of {due} partitions"
            assert sum(records.states.values()) >= blocks or due, f"{stage}: {records} of {blocks} blocks"
        figures[step] = [dict(records.states) for records in found[stage]]
    return figures


def _review(world: World) -> dict[str, Any]:
    """Seconds until the review page answers without an index, and of pages that no one has opened."""
    with serving(world.folder, NAME) as (port, memory, built):
        reviewer = Reviewer(port, "reviewer", PASSWORD, ["ride"])
        pages = {}
        for page, address in PAGES.items():
            began = time.perf_counter()
            reviewer.open(address)
            pages[page] = round(time.perf_counter() - began, 3)
        return {"index_seconds": round(built, 1), "pages": pages, "peak_mib": round(memory.resident / 2**20)}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def print_tables(all_figures: Sequence[dict[str, Any]]) -> None:
    for figures in all_figures:
        first, again, added = (figures[name] for name in ("first", "again", "added"))
        print(
            f"\n{figures['images']:,} images, partitions of {figures['partition']:,}; store {figures['store_mb']:,} MB"
        )
        print(
            f"{'':16}{'ms/image':>10}{'first s':>10}{'again s':>10}{'1 % s':>10}{'partitions':>12}{'of 1 %':>8}  task runs"
        )
        for phase, seconds in first["phases"].items():
            pace = 1000 * seconds / figures["images"]
            later = [of["phases"].get(phase, 0.0) for of in (again, added)]
            line = f"{phase:16}{pace:10.3f}{seconds:10.1f}{later[0]:10.1f}{later[1]:10.1f}"
            if phase in first["partitions"]:
                line += f"{first['partitions'][phase]:12,}{added['computed'][phase]:8}  {figures['prefect'][phase]}"
            print(line)
        pace = 1000 * first["seconds"] / figures["images"]
        print(f"{'all':16}{pace:10.3f}{first['seconds']:10.1f}{again['seconds']:10.1f}{added['seconds']:10.1f}")
        for name, of in (("first", first), ("again", again), ("1 %", added)):
            print(f"peak MiB, {name}: " + ", ".join(f"{role} {peak:,}" for role, peak in of["peak_mib"].items()))
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
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            world = World(Path(name) / "world", images, partition, given.draws, given.workers, given.seconds)
            found.append(rehearse(world, reviewed))
        print_tables(found[-1:])
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }
    if given.json is not None:
        given.json.write_text(json.dumps({"sizes": found, "machine": machine}, indent=1))


if __name__ == "__main__":
    main()
