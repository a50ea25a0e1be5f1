"""The share of a training for which it stands still for checkpoints: of the released size, and of a small one as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pretraining.setup import make_config, make_trainer, write_training_set
from benchmarks.streaming.photos import Photos
from benchmarks.streaming.results import Goal, Row

GOAL = Goal(2, most=True, of_ratio=False)
INTERVAL = 300
"""Seconds between two checkpoints of a large training: the default of 500 steps, of .6 s each."""
PER_HOUR = 3600 // INTERVAL
EVERY = 10
"""Steps between two checkpoints of the small training: some seconds."""


def measure_checkpoints(photos: Photos, folder: Path, steps: int, rounds: int) -> Iterator[Row]:
    """Yields times at full size, beside the peers, and the share of a whole training."""
    folder.mkdir()
    found = _full_size(folder, rounds)
    ours = found.pop("ours")
    gigabytes = found.pop("bytes") / 1e9
    for name, peer in found.items():
        label = f"checkpoints / {gigabytes:.1f} GB: standing still, beside {name}"
        yield Row(label, "s", ours["stall"], peer.get("stall"), note=peer.get("failed", _of_all(ours, peer)))
    yield Row("checkpoints / the same, first one of a process", "s", ours["first"])
    share = 100 * (ours["first"] + (PER_HOUR - 1) * ours["stall"]) / 3600
    yield Row(f"checkpoints / share of the first hour, one in {INTERVAL} s", "%", share, goal=GOAL)
    yield _small(photos, folder, steps)


def _of_all(ours: dict[str, float], peer: dict[str, float]) -> str:
    return f"on disk after {ours['written']:.1f} s" + (f" (theirs {peer['written']:.1f})" if "written" in peer else "")


def _full_size(folder: Path, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pretraining.stall", str(folder), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return dict(json.loads(line))


def _small(photos: Photos, folder: Path, steps: int) -> Row:
    """Trains a small network with a checkpoint every few seconds."""
    shards = write_training_set(photos, folder / "set")
    trainer = make_trainer(make_config(folder / "small", shards, steps=steps, checkpoint_every=EVERY))
    trained = trainer.train(lambda: False)
    share = 100 * trainer._checkpoints.waited / trained.seconds
    return Row(
        f"checkpoints / share of a small training, one in {EVERY} steps",
        "%",
        share,
        goal=GOAL,
        note=f"one in {trained.seconds / (steps / EVERY):.1f} s",
    )
