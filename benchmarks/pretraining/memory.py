"""The memory of a rank whose training set has many samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, at_most, in_own_process, peak_mib
from benchmarks.photos import Photos
from benchmarks.pretraining.setup import SMALL, as_a_rank, make_config, of_one_size, train, write_training_set
from benchmarks.streaming.large_map import SAMPLES_PER_TAR, memory
from pipeline.training.config import TrainConfig

STEPS = 12
MOST_MORE = at_most(8)
"""MB that a rank may take more with the larger set: noise of the allocators, and nothing that grows with the samples."""


def measure_memory(photos: Photos, folder: Path, tars: int) -> Iterator[Row]:
    """Yields the memory after some steps, with one tar and with many."""
    chosen, count = of_one_size(photos), SAMPLES_PER_TAR
    repeated = Photos((chosen.paths * count)[:count], (chosen.sizes * count)[:count], chosen.origin)
    shards = write_training_set(repeated, folder / "set", tars)
    settings = {"network": SMALL, "image_size": 128, "steps": STEPS, "log_every": 1}
    configs = [make_config(folder / f"{number}", shards[:number], **settings) for number in (1, tars)]
    few, many = (in_own_process(memory_of_training, config) for config in configs)
    name = f"memory / of a rank with {tars * count:,} samples, beside {count:,}"
    for kind, label in (("written_mb", "written by it"), ("private_mb", "private"), ("peak_mb", "peak, resident")):
        yield Row(f"{name}: {label}", "MB", many[kind], few[kind])
    yield Row("memory / difference of what it wrote", "MB", many["written_mb"] - few["written_mb"], goal=MOST_MORE)


def memory_of_training(config: TrainConfig) -> dict[str, float]:
    """Trains in this process and returns its memory in MB."""
    as_a_rank()
    train(config)
    return memory() | {"peak_mb": peak_mib() * 2**20 / 1e6}
