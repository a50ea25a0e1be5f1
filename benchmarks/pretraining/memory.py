"""The memory of a rank whose training set has many samples: `python -m benchmarks.pretraining.memory CONFIG.json`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.pretraining.setup import SMALL, make_config, of_one_size, train, write_training_set
from benchmarks.streaming.fresh_process import memory
from benchmarks.streaming.photos import Photos
from benchmarks.streaming.results import Goal, Row
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.config import TrainConfig

PER_TAR = 1000
STEPS = 12
MOST_MORE = Goal(8, most=True, of_ratio=False)
"""MB that a rank may take more with the larger set: noise of the allocators, and nothing that grows with the samples."""


def measure_memory(photos: Photos, folder: Path, tars: int) -> Iterator[Row]:
    """Yields the memory after some steps, with one tar and with many of `PER_TAR` samples."""
    chosen = of_one_size(photos)
    repeated = Photos((chosen.paths * PER_TAR)[:PER_TAR], (chosen.sizes * PER_TAR)[:PER_TAR], chosen.origin)
    shards = write_training_set(repeated, folder / "set", tars)
    found = []
    for count in (1, tars):
        config = make_config(
            folder / f"{count}", shards[:count], network=SMALL, image_size=128, steps=STEPS, log_every=1
        )
        file = folder / f"{count}.json"
        file.write_text(config.model_dump_json())
        command = [sys.executable, "-m", "benchmarks.pretraining.memory", str(file)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    few, many = found
    name = f"memory / of a rank with {tars * PER_TAR:,} samples, beside {PER_TAR:,}"
    for kind, label in (("written_mb", "written by it"), ("private_mb", "private"), ("peak_mb", "peak, resident")):
        yield Row(f"{name}: {label}", "MB", many[kind], few[kind])
    yield Row("memory / difference of what it wrote", "MB", many["written_mb"] - few["written_mb"], goal=MOST_MORE)


def main(file: Path) -> None:
    """Trains, and prints the memory of this process as JSON."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_freed_memory()
    train(TrainConfig.model_validate_json(file.read_bytes()))
    # The peak of `getrusage` would include that of the parent process.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    print(json.dumps({**memory(), "peak_mb": int(peak[1]) * 1024 / 1e6}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
