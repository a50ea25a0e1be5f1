"""Two ranks on two cores beside one rank on one core, for each way to share the work.

Two ranks take twice the images, and no longer if nothing is lost. Two training runs that share nothing but the machine show
what its memory allows. The peer is a bare loop with torch's DistributedDataParallel. Ways take turns.
"""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness import Goal, Row
from benchmarks.photos import Photos
from benchmarks.pretraining.setup import (
    SMALL,
    WARM_UP,
    Seconds,
    StepClock,
    as_a_rank,
    make_config,
    make_task,
    of_one_size,
    open_samples,
    train,
    write_training_set,
)  # fmt: skip
from pipeline.training.batches import MicroBatch, MicroBatches, Origin
from pipeline.training.config import Shard, TrainConfig
from pipeline.training.optimizer import make_optimizer
from pipeline.training.ranks import Ranks

GOAL = Goal(1.15, most=True)
CPU = torch.device("cpu")
ALONE, BESIDE, BARE, BARE_DDP = (
    "one rank",
    "2 training runs that share nothing",
    "bare loop",
    "2 ranks, bare loop with DDP",
)
TWO = {BESIDE: (ALONE, None), BARE_DDP: (BARE, None)} | dict.fromkeys(("ddp", "fsdp", "tree"), (ALONE, GOAL))
"""What two processes do → what one does that it is compared with, and the goal."""
WAYS = (ALONE, BARE, *TWO)


def measure_scaling(photos: Photos, folder: Path, steps: int, rounds: int) -> Iterator[Row]:
    """Yields the time of a step of two ranks, beside one rank that takes half the images."""
    shards = write_training_set(of_one_size(photos), folder / "set")
    turns = [_Turn.of(way, folder / f"{number}-{way}", shards, steps) for number in range(rounds) for way in WAYS]
    multiprocessing.spawn(_rank, (folder, turns), nprocs=2)
    medians = json.loads((folder / "medians.json").read_bytes())
    found = {way: [Seconds(*of) for turn, of in zip(turns, medians, strict=True) if turn.way == way] for way in WAYS}
    for way, (single, goal) in TWO.items():
        pairs = sorted(zip(found[way], found[single], strict=True), key=lambda pair: pair[0].wall / pair[1].wall)
        two, one = pairs[rounds // 2]
        beside, processor = _median_ratio(found[way], found[BESIDE], 0), _median_ratio(found[way], found[single], 1)
        said = f"CPU-s {processor:.2f}x" + (f"; {beside:.2f}x of {BESIDE}" if goal else "")
        yield Row(f"ranks / step of {way}, beside 1 rank", "s", two.wall, one.wall, goal, said)


def _median_ratio(ours: Sequence[Seconds], peer: Sequence[Seconds], part: int) -> float:
    return statistics.median(mine[part] / its[part] for mine, its in zip(ours, peer, strict=True))


@dataclass(frozen=True)
class _Turn:
    """A training run of one way, or two of those that share nothing, by rank."""

    way: str
    configs: tuple[TrainConfig, ...]

    @classmethod
    def of(cls, way: str, folder: Path, shards: Sequence[Shard], steps: int) -> _Turn:
        single = way in (ALONE, BESIDE, BARE)
        changes: dict[str, Any] = {"batch": 4, "processes": 1} if single else {"batch": 8, "processes": 2}
        if way in ("fsdp", "tree"):
            changes["parallel"] = way
        changes |= {"network": SMALL, "steps": steps + WARM_UP}
        folders = [folder / "0", folder / "1"] if way == BESIDE else [folder]
        return cls(way, tuple(make_config(each, shards, **changes) for each in folders))

    def steps(self, rank: int) -> list[Seconds]:
        """Trains as this rank has to. Returns the times of its steps."""
        if rank and self.way in (ALONE, BARE):
            return []
        config = self.configs[rank if self.way == BESIDE else 0]
        if self.way in (BARE, BARE_DDP):
            return _bare(config, Ranks(rank, 1 if self.way == BARE else 2))
        clock = StepClock()
        train(config, ranks=Ranks() if self.way in (ALONE, BESIDE) else Ranks(rank, 2), check=clock)
        return clock.steps


def _bare(config: TrainConfig, ranks: Ranks) -> list[Seconds]:
    """Trains as a short script would, which prepares its images between steps. Returns the times of steps."""
    task, settings = make_task(config), config.settings
    batches = MicroBatches(open_samples(config), settings, task, Origin(), {})
    torch.manual_seed(0)
    network = task.build(lambda note: None).train()
    optimizer = make_optimizer(network, settings)
    parameters = list(network.parameters())
    module: nn.Module = network
    if ranks.count > 1:
        module = DistributedDataParallel(
            network, find_unused_parameters=True, gradient_as_bucket_view=True, broadcast_buffers=False
        )
    assert settings.steps is not None
    clock = StepClock()
    for step in range(settings.steps):
        batch = batches[step * ranks.count + ranks.rank]
        assert isinstance(batch, MicroBatch)
        optimizer.zero_grad(set_to_none=True)
        images, given = batch.images(CPU), batch.inputs.to(CPU)
        loss = task.losses(module(images, batch.sizes, given.texts), given)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm, foreach=True)
        optimizer.step()
        loss.item()
        clock.measure()
    return clock.steps


def _rank(rank: int, folder: Path, turns: Sequence[_Turn]) -> None:
    as_a_rank()
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    medians = []
    for turn in turns:
        dist.barrier()
        steps = turn.steps(rank)[WARM_UP:]
        medians.append([statistics.median(times) for times in zip(*steps, strict=True)])
    if rank == 0:
        (folder / "medians.json").write_text(json.dumps(medians))
    dist.destroy_process_group()
