"""Measures training runs: `python -m benchmarks.training` (`--help`), on a quiet machine.

data         the share of a step that is spent waiting for data
checkpoints  the time that a training run stands still for them, beside torch.save
loop         the trainer beside a bare loop over the same micro-batches
ranks        two ranks on two cores beside one, with one thread each, for each way to share the work

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
from benchmarks.pretraining.loop import measure_loop
from benchmarks.pretraining.scaling import measure_scaling
from benchmarks.pretraining.setup import WARM_UP, as_a_rank, make_config, tracked, train, write_training_set


def measure_data_wait(photos: Photos, folder: Path, steps: int) -> Iterator[Row]:
    """Yields the share of the time after the first entry of the log that a training run waits for data."""
    shards = write_training_set(photos, folder / "set")
    for num_workers in (0, 1):
        changes = {"num_workers": num_workers, "steps": steps, "log_every": WARM_UP}
        config = make_config(folder / f"{num_workers}", shards, **changes)
        train(config)
        waited, speed = tracked(config, "data_wait"), tracked(config, "images_per_second")
        times = {step: 1 / speed[step] for step in sorted(waited)[1:]}
        share = 100 * sum(waited[step] * spent for step, spent in times.items()) / sum(times.values())
        yield Row(f"data / share of a step spent waiting, num_workers = {num_workers}", "%", share)


PARTS: dict[str, Callable[[Photos, Path, Namespace], Iterator[Row]]] = {
    "data": lambda photos, folder, given: measure_data_wait(photos, folder, given.steps),
    "checkpoints": lambda photos, folder, given: measure_checkpoints(folder, given.rounds),
    "loop": lambda photos, folder, given: measure_loop(photos, folder, given.steps),
    "ranks": lambda photos, folder, given: measure_scaling(photos, folder, given.steps // 4, given.rounds),
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
    options.add_argument("--megabytes", type=float, default=60, help="size of all images")
    run(options, measure)
