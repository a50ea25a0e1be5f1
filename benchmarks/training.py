"""Measures training runs: `python -m benchmarks.training` (`--help`), about twenty minutes on a quiet machine.

data         the share of a step that is spent waiting for data, and the images that a process prepares
checkpoints  the time that a training stands still for them, beside torch.save and torch.distributed.checkpoint
loop         the trainer beside a bare loop over the same micro-batches
ranks        two ranks on two cores beside one, with one thread each, for each way to share the work
memory       a rank that trains on 1,000 samples, and on 2,000,000
restart      steps lost and time until the next step when a rank is killed

All training runs are real ones, with TensorBoard, in processes of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.labelling import processor
from benchmarks.pretraining.checkpoint_stall import measure_checkpoints
from benchmarks.pretraining.data_wait import measure_data_wait
from benchmarks.pretraining.loop import measure_loop
from benchmarks.pretraining.memory import measure_memory
from benchmarks.pretraining.restart import measure_restart
from benchmarks.pretraining.scaling import measure_scaling
from benchmarks.streaming.photos import write_photos
from benchmarks.streaming.results import HEADER, Row, print_row
from pipeline.runtime.processes import keep_freed_memory

PARTS = ("data", "checkpoints", "loop", "ranks", "memory", "restart")
MEGABYTES = 60


def measure(given: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Yields the rows of all parts that were asked for."""
    photos = write_photos(given.shared / "data/coco/sample2017", folder / "images", MEGABYTES)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{processor()}, {os.cpu_count()} cores, load {load}; {len(photos):,} images: {photos.origin}")
    print(HEADER)
    if "data" in given.parts:
        yield from measure_data_wait(photos, folder / "data", given.steps)
    if "checkpoints" in given.parts:
        yield from measure_checkpoints(photos, folder / "checkpoints", given.steps, given.rounds)
    if "loop" in given.parts:
        yield from measure_loop(photos, folder / "loop", given.steps)
    if "ranks" in given.parts:
        yield from measure_scaling(photos, folder / "ranks", given.steps // 4, given.rounds)
    if "memory" in given.parts:
        yield from measure_memory(photos, folder / "memory", given.tars)
    if "restart" in given.parts:
        yield from measure_restart(photos, folder / "restart")


def main() -> None:
    """Measures, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("RLIP_SHARED", "../shared"))
    parser.add_argument(
        "--shared", type=Path, default=shared, help="folder with data/coco; synthetic images without it"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--steps", type=int, default=40, help="steps of each training that is timed")
    parser.add_argument("--rounds", type=int, default=3, help="turns that the ways to share the work take")
    parser.add_argument("--tars", type=int, default=2000, help="tars of 1,000 samples in the large set")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # as training processes do
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(given, Path(folder)):
            print_row(row)
            rows.append(row)
    missed = [row.name for row in rows if row.met is False]
    print(f"goals missed: {'; '.join(missed) or 'none'}")
    if given.json:
        machine = {"processor": processor(), "cores": os.cpu_count(), "torch": version("torch"), "steps": given.steps}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({**machine, "rows": [row.figures() for row in rows], "missed": missed}, indent=1)
        )


if __name__ == "__main__":
    main()
