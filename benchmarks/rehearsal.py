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

import shutil
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness import Row, at_most, parser, run
from benchmarks.processes import Measured, run_measured
from benchmarks.review import PASSWORD, serving
from benchmarks.review_clients import Reviewer
from benchmarks.scale.server_records import StageRecords, recorded
from benchmarks.scale.world import NAME, World

FULL = 1_820_000
DEFAULT = (18_200, 36_400)
BLOCKS = 256
"""Task runs of a step, at most."""
PAGES = {
    "overview": "", "labels": "labels", "a predicate": "labels?predicate=ride&order=score",
    "images": "images/rows?start=0&size=60",
}  # fmt: skip


def rehearse(world: World, reviewed: bool) -> Iterator[Row]:
    """Runs everything on a world that is written here."""
    size = f"{world.images:,} images"
    world.write()
    command = ("run", str(world.recipe), "--json")
    runs = {"first": run_measured(*command), "again": run_measured(*command)}
    more = -(-world.images // 100)
    world.add(world.images, world.images + more)
    runs[f"{more:,} more"] = run_measured(*command)
    for name, ran in runs.items():
        goal = at_most(60) if name == "again" else None
        milliseconds = 1000 * ran.cpu_seconds / world.images
        note = f"{ran.cpu_seconds:.1f} CPU-s, {milliseconds:.2f} ms an image"
        yield Row(f"{size} / {name}", "s", ran.seconds, goal=goal, note=note)
        for phase, seconds in ran.phases.items():
            step = ran.steps.get(phase)
            counted = f"{due(step):,} of {step['partitions']:,} partitions computed" if step else ""
            yield Row(f"{size} / {name}: {phase}", "s", seconds, note=counted)
        for role, peak in ran.peak_mib.items():
            note = f"{ran.cpu[role]:.1f} CPU-s of all such processes"
            yield Row(f"{size} / {name}: peak of {role}", "MiB", peak, goal=at_most(2048), note=note)
    for step, states in task_runs(recorded(world.folder / "prefect"), list(runs.values())):
        note = "; ".join(str(dict(each)) for each in states)
        most = max(each.total() for each in states)
        yield Row(f"{size} / task runs of {step}", "at most", most, goal=at_most(BLOCKS), note=note)
    sizes = (path.stat().st_size for path in (world.folder / "store").rglob("*") if path.is_file())
    yield Row(f"{size} / store", "MB", sum(sizes) / 1e6)
    if reviewed:
        yield from review_pages(world, size)


def due(step: dict[str, int]) -> int:
    """Returns how many partitions a step computed."""
    return step["partitions"] - (step["cached"] or 0)


def task_runs(
    found: dict[str, list[StageRecords]], runs: Sequence[Measured]
) -> Iterator[tuple[str, list[Counter[str]]]]:
    """Yields steps with the states of their task runs in each run. Raises `AssertionError` if any is lost or did not end."""
    for step in runs[0].steps:
        stage = step.partition(":")[0]
        assert len(found[stage]) == len(runs), f"{stage}: {len(found[stage])} flow runs of {len(runs)} are recorded"
        for records, ran in zip(found[stage], runs, strict=True):
            computed = due(ran.steps[step])
            blocks = min(ran.steps[step]["partitions"], BLOCKS) if computed else 1
            assert records.states.total() == blocks, f"{stage}: {records}, {blocks} task runs are expected"
            assert not records.unfinished, f"{stage}: {records}, some have no final state"
            assert records.computed == computed, f"{stage}: {records}, {computed} partitions were due"
        yield step, [records.states for records in found[stage]]


def review_pages(world: World, size: str) -> Iterator[Row]:
    """Yields seconds until the review page answers without an index, and of pages that no one has opened."""
    with serving(world.folder, NAME) as (page, memory, built):
        reviewer = Reviewer(page, "reviewer", PASSWORD, ["ride"])
        yield Row(f"{size} / review: index", "s", built)
        for name, address in PAGES.items():
            yield Row(f"{size} / review: {name}", "s", reviewer.time(address))
        yield Row(f"{size} / review: memory", "MiB", memory.resident / 2**20)


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the rows of all sizes."""
    sizes = [(images, 1000, True) for images in given.images]
    sizes += [(5 * given.partitions, 5, False)] if given.partitions else []
    for images, partition, reviewed in sizes:
        folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=given.folder))  # stays for a look if something fails
        began = time.monotonic()
        yield from rehearse(World(folder, images, partition, given.draws, given.workers, given.seconds), reviewed)
        yield Row(f"{images:,} images / all of this", "s", time.monotonic() - began)
        shutil.rmtree(folder)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--images", type=int, nargs="*", default=DEFAULT, help=f"sizes to run; full: {FULL:,}")
    options.add_argument(
        "--partitions", type=int, default=2050, help="partitions of 5 images in a further run; 0: none"
    )
    options.add_argument("--seconds", type=float, default=0.0, help="what the stand-in takes for an image")
    options.add_argument("--draws", type=int, default=2, help="captions of an image")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", type=Path, help="parent of the work folder; 100,000 images take 1 GB there")
    run(options, measure)
