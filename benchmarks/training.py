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

import os
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Row, parser, run
from benchmarks.photos import Photos, write_photos
from benchmarks.pretraining.checkpoints import measure_checkpoints
from benchmarks.pretraining.data_wait import measure_data_wait
from benchmarks.pretraining.loop import measure_loop
from benchmarks.pretraining.memory import measure_memory
from benchmarks.pretraining.restart import measure_restart
from benchmarks.pretraining.scaling import measure_scaling
from benchmarks.pretraining.setup import as_a_rank

PARTS: dict[str, Callable[[Photos, Path, Namespace], Iterator[Row]]] = {
    "data": lambda photos, folder, given: measure_data_wait(photos, folder, given.steps),
    "checkpoints": lambda photos, folder, given: measure_checkpoints(photos, folder, given.steps, given.rounds),
    "loop": lambda photos, folder, given: measure_loop(photos, folder, given.steps),
    "ranks": lambda photos, folder, given: measure_scaling(photos, folder, given.steps // 4, given.rounds),
    "memory": lambda photos, folder, given: measure_memory(photos, folder, given.tars),
    "restart": lambda photos, folder, given: measure_restart(photos, folder),
}


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the rows of all parts that were asked for."""
    as_a_rank()
    with tempfile.TemporaryDirectory() as name:
        photos = write_photos(given.shared / "data/coco/sample2017", Path(name) / "images", given.megabytes)
        yield Row("images", "", len(photos), note=photos.origin)
        for part in given.parts:
            yield from PARTS[part](photos, Path(name) / part, given)


if __name__ == "__main__":
    options = parser(__doc__)
    shared = Path(os.environ.get("RLIP_SHARED", "../shared"))
    options.add_argument("--shared", type=Path, default=shared, help="folder with data/coco; noise without it")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--steps", type=int, default=40, help="steps of each training that is timed")
    options.add_argument("--rounds", type=int, default=3, help="turns that the ways to share the work take")
    options.add_argument("--tars", type=int, default=2000, help="tars of 1,000 samples in the large set")
    options.add_argument("--megabytes", type=float, default=60, help="size of all images")
    run(options, measure)
