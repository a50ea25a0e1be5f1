"""Two ranks on two cores beside one rank on one core, for each way to share the work.

Two ranks take twice the images, and no longer if nothing is lost. Ways take turns.
"""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import multiprocessing

from benchmarks.harness import Row
from benchmarks.photos import Photos
from benchmarks.pretraining.setup import (
    SMALL,
    WARM_UP,
    Seconds,
    StepClock,
    as_a_rank,
    make_config,
    of_one_size,
    train,
    write_training_set,
)  # fmt: skip
from pipeline.training.config import TrainConfig
from pipeline.training.ranks import Ranks

ALONE = "one rank"
WAYS = (ALONE, "ddp", "fsdp", "tree")
Turn = tuple[str, TrainConfig]


def measure_scaling(photos: Photos, folder: Path, steps: int, rounds: int) -> Iterator[Row]:
    """Yields the time of a step of two ranks, beside one rank that takes half the images."""
    shards = write_training_set(of_one_size(photos), folder / "set")
    turns: list[Turn] = []
    for number in range(rounds):
        for way in WAYS:
            changes: dict[str, Any] = {"batch": 4 if way == ALONE else 8, "processes": 1 if way == ALONE else 2}
            changes |= {"parallel": way} if way in ("fsdp", "tree") else {}
            settings = {"network": SMALL, "steps": steps + WARM_UP} | changes
            turns.append((way, make_config(folder / f"{number}-{way}", shards, **settings)))
    multiprocessing.spawn(_rank, (folder, turns), nprocs=2)
    medians = json.loads((folder / "medians.json").read_bytes())
    found = {way: [Seconds(*of) for (its, _), of in zip(turns, medians, strict=True) if its == way] for way in WAYS}
    for way in WAYS[1:]:
        pairs = sorted(zip(found[way], found[ALONE], strict=True), key=lambda pair: pair[0].wall / pair[1].wall)
        two, one = pairs[rounds // 2]
        processor = statistics.median(mine.cpu / its.cpu for mine, its in pairs)
        yield Row(f"ranks / step of {way}, beside 1 rank", "s", two.wall, one.wall, f"CPU-s {processor:.2f}x")


def _rank(rank: int, folder: Path, turns: Sequence[Turn]) -> None:
    as_a_rank()
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    medians = []
    for way, config in turns:
        dist.barrier()
        clock = StepClock()
        if way != ALONE or rank == 0:
            train(config, ranks=Ranks() if way == ALONE else Ranks(rank, 2), check=clock)
        medians.append([statistics.median(times) for times in zip(*clock.steps[WARM_UP:], strict=True)])
    if rank == 0:
        (folder / "medians.json").write_text(json.dumps(medians))
    dist.destroy_process_group()
