"""Rehearses the whole chain at scale: `python -m benchmarks.rehearsal` (`--images 1820000`: the size of Objects365, hours).

Only networks are replaced, inside the same stage classes: the captioner by a stand-in behind LAVIS's pipes that waits
`--seconds` an image (`scale/captioner.py`), the tagger by the method "prior". The pre-training takes two steps with a tiny
network, since only what comes before and between steps depends on the number of images. For each size:

first    a run with Prefect in a new store
again    the same run, which computes nothing
one %    one per cent more images, and the run again
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, parser, run
from benchmarks.processes import run_measured
from benchmarks.scale.world import World

FULL = 1_820_000
DEFAULT = (18_200, 36_400)


def rehearse(world: World) -> Iterator[Row]:
    """Runs everything on a world that is written here."""
    size = f"{world.images:,} images"
    world.write()
    command = ("run", str(world.recipe), "--json")
    runs = {"first": run_measured(*command), "again": run_measured(*command)}
    more = -(-world.images // 100)
    world.add(world.images, world.images + more)
    runs[f"{more:,} more"] = run_measured(*command)
    for name, ran in runs.items():
        milliseconds = 1000 * ran.cpu_seconds / world.images
        note = f"{ran.cpu_seconds:.1f} CPU-s, {milliseconds:.2f} ms an image"
        yield Row(f"{size} / {name}", "s", ran.seconds, note=note)
        for phase, seconds in ran.phases.items():
            step = ran.steps.get(phase)
            due = f"{step['partitions'] - (step['cached'] or 0):,} of {step['partitions']:,}" if step else ""
            yield Row(f"{size} / {name}: {phase}", "s", seconds, note=due and f"{due} partitions computed")
        for role, peak in ran.peak_mib.items():
            yield Row(f"{size} / {name}: peak of {role}", "MiB", peak)
    sizes = (path.stat().st_size for path in (world.folder / "store").rglob("*") if path.is_file())
    yield Row(f"{size} / store", "MB", sum(sizes) / 1e6)


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the rows of all sizes."""
    for images in given.images:
        folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=given.folder))  # stays for a look if something fails
        yield from rehearse(World(folder, images, 1000, given.draws, given.workers, given.seconds))
        shutil.rmtree(folder)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--images", type=int, nargs="*", default=DEFAULT, help=f"sizes to run; full: {FULL:,}")
    options.add_argument("--seconds", type=float, default=0.0, help="what the stand-in takes for an image")
    options.add_argument("--draws", type=int, default=2, help="captions of an image")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", type=Path, help="parent of the work folder; 100,000 images take 1 GB there")
    run(options, measure)
