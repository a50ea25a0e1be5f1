"""What the loss of a rank costs a training run: steps that are lost, and time until the next step is trained."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.harness import Row
from benchmarks.photos import Photos
from benchmarks.pretraining.setup import SMALL, make_config, of_one_size, write_training_set
from pipeline.training.launch.launcher import launch

EVERY = 10
"""Steps between two checkpoints."""
STRUCK_AT = 25
RANKS = 2


class _Strike:
    """Kills a rank once, and notes when the training goes on."""

    def __init__(self) -> None:
        self.struck_at: float | None = None
        self.lost_after = self.resumed_after = 0
        self.seconds: float | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if self.struck_at is None:
            if done >= STRUCK_AT:
                self.lost_after, self.struck_at = done, time.perf_counter()
                os.kill(max(_ranks()), signal.SIGKILL)
        elif "continuing from the checkpoint" in note:
            self.resumed_after = done
        elif self.seconds is None and "loss" in note and self.resumed_after:
            self.seconds = time.perf_counter() - self.struck_at


def _ranks() -> list[int]:
    """Returns the ids of the processes that this one started to train."""
    forks = psutil.Process().children(recursive=True)
    return [process.pid for process in forks if process.name().startswith("rank ")]


def measure_restart(photos: Photos, folder: Path) -> Iterator[Row]:
    """Yields steps and seconds. Raises `RuntimeError` when the training did not go on from its checkpoint."""
    shards = write_training_set(of_one_size(photos), folder / "set")
    settings = {"batch": 8, "processes": RANKS, "steps": STRUCK_AT + 2 * EVERY, "checkpoint_every": EVERY}
    config = make_config(folder / "training", shards, network=SMALL, **settings)
    strike = _Strike()
    summary = launch(config, strike)
    if strike.seconds is None or summary.resumed_from != strike.resumed_after:
        raise RuntimeError("the training did not go on from its checkpoint")
    lost = strike.lost_after - strike.resumed_after
    yield Row(f"restart / steps lost, a checkpoint every {EVERY} steps", "steps", lost)
    yield Row(f"restart / from SIGKILL of one of {RANKS} ranks to the next step", "s", strike.seconds)
