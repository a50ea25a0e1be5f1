"""Measures training runs: `python -m benchmarks.training` (`--help`), on a quiet machine.

data         the share of a step that is spent waiting for data
checkpoints  the time that a training run stands still for a checkpoint of the released size (ParSeDA with ResNet-50 and
             RoBERTa-base, with AdamW's averages), beside torch.save of the same tensors
loop         the trainer beside a bare loop over the same micro-batches, with the same network, loss and optimiser and nothing
             else. Both take turns step by step, in one process with one thread, so that other work slows both
ranks        two ranks on two cores beside one rank on one core, for each way to share the work. Two ranks take twice the
             images, and no longer if nothing is lost. Ways take turns

All training runs are real ones, with TensorBoard, in processes of one thread.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, multiprocessing

from benchmarks.harness import Row, in_own_process, parser, run, wall_seconds
from benchmarks.photos import Photos, write_photos
from benchmarks.training_runs import (
    SMALL,
    WARM_UP,
    Seconds,
    StepClock,
    as_a_rank,
    make_config,
    make_task,
    make_trainer,
    of_one_size,
    open_samples,
    tracked,
    train,
    write_training_set,
)  # fmt: skip
from models.config import NetworkConfig
from models.network import Network
from models.rlip import RLIP
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.batches import MicroBatches, Origin
from pipeline.training.checkpoints.checkpointer import Checkpointer, TrainingState
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS, TrainConfig
from pipeline.training.optimizer import make_optimizer, set_rates
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from pipeline.training.task import Draws
from storage.stream.order import stable_seed

CPU = torch.device("cpu")
LOG_EVERY = 5
"""Four times as often as by default."""
ALONE = "one rank"
WAYS = (ALONE, "ddp", "fsdp", "tree")
Turn = tuple[str, TrainConfig]


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


def measure_checkpoints(folder: Path, rounds: int) -> Iterator[Row]:
    """Yields the time of the first checkpoint of a process, and of later ones beside torch.save."""
    folder.mkdir()
    size, (first, stall, written), peer = in_own_process(at_full_size, folder, rounds)
    note = f"on disk after {written:.1f} s"
    yield Row(f"checkpoints / {size / 1e9:.1f} GB: standing still, beside torch.save", "s", stall, peer, note)
    yield Row("checkpoints / the same, first one of a process", "s", first)


def at_full_size(folder: Path, rounds: int) -> tuple[int, tuple[float, float, float], float]:
    """Returns the bytes of the state, our times, and the least of torch.save, in this process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = TrainingSettings(keep_checkpoints=1)
    network = RLIP(NetworkConfig(), None)
    optimizer = make_optimizer(network, settings)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state = TrainingState(network, optimizer, None)
    tensors = state.tensors(0)
    found = save(state, settings, folder, rounds + 1)
    peer = min(wall_seconds(lambda: save_and_sync(tensors, folder / "state.pt")) for _ in range(rounds))
    return sum(tensor.nbytes for tensor in tensors.values()), found, peer


def save(state: TrainingState, settings: TrainingSettings, folder: Path, saves: int) -> tuple[float, float, float]:
    """Saves some checkpoints. Returns seconds of standing still for the first, and at best later, and until one is on disk.

    Raises `RuntimeError` when the last one differs from the state.
    """
    checkpoints = Checkpointer(state, settings, folder, Ranks(), False, lambda note: None)
    stalls, writes = [], []
    for step in range(1, saves + 1):
        before, began = checkpoints.waited, time.perf_counter()
        checkpoints.save(step, {})
        stalls.append(checkpoints.waited - before)
        checkpoints.finish()
        writes.append(time.perf_counter() - began)
    checkpoints.close()
    files = CheckpointFolder(folder / CHECKPOINTS)
    files.record(saves)
    (file,) = files.path(saves).glob("*.safetensors")
    with safe_open(file, "pt") as there:
        for name, tensor in state.tensors(0).items():
            if not torch.equal(there.get_tensor(name), tensor):
                raise RuntimeError(f"{name} differs in the checkpoint")
    shutil.rmtree(folder / CHECKPOINTS)
    return stalls[0], min(stalls[1:]), min(writes)


def save_and_sync(tensors: dict[str, Tensor], path: Path) -> None:
    """Calls torch.save and waits for the disk, as ours does."""
    with path.open("wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())


class BareLoop:
    """Trains a network as a short script would. It is called after each step of a trainer, and then runs the same step."""

    def __init__(self, config: TrainConfig) -> None:
        self._settings = config.settings
        self._task = make_task(config)
        self._batches = MicroBatches(open_samples(config), config.settings, self._task, Origin(), {})
        torch.manual_seed(stable_seed("weights", config.settings.seed))
        self.network = self._task.build(lambda note: None).train()
        self._optimizer = make_optimizer(self.network, config.settings)
        self._parameters = list(self.network.parameters())
        self.own: list[float] = []
        """CPU-seconds of each step of this loop."""
        self.beside: list[float] = []
        """CPU-seconds of each step of the trainer."""
        self._ended = time.process_time()
        self._step = self._total = 0

    def is_due(self, step: int, total: int) -> bool:
        self._step, self._total = step, total
        return True

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Runs a step after the trainer's own."""
        began = time.process_time()
        self.beside.append(began - self._ended)
        count = self._settings.micro_batches
        parts = [self._batches[(self._step - 1) * count + part] for part in range(count)]
        self._train(self._step - 1, self._total, parts)
        self._ended = time.process_time()
        self.own.append(self._ended - began)
        return {}

    def _train(self, step: int, total: int, parts: list[Any]) -> None:
        set_rates(self._optimizer, self._settings, step, total)
        self._optimizer.zero_grad(set_to_none=True)
        for part, batch in enumerate(parts):
            Draws(self._settings.seed, step, part).seed_torch()
            images, given = batch.images(CPU), batch.inputs.to(CPU)
            predictions = self.network(images, batch.sizes, given.texts)
            loss = self._task.losses(predictions, given)["loss"] / len(parts)
            loss.backward()
            loss.item()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm, foreach=True)
        self._optimizer.step()


def measure_loop(photos: Photos, folder: Path, steps: int) -> Iterator[Row]:
    """Yields the time of the trainer over that of the bare loop. Raises `RuntimeError` when their weights differ."""
    shards = write_training_set(photos, folder / "set")
    settings = {"batch": 8, "steps": steps + WARM_UP, "schedule": "cosine", "max_grad_norm": 1e6}
    config = make_config(folder / "training", shards, log_every=LOG_EVERY, **settings)
    bare = BareLoop(config)
    trained = make_trainer(config, check=bare).train(lambda: False)
    theirs = bare.network.state_dict()
    if not all(torch.equal(value, theirs[name]) for name, value in trained.network.state_dict().items()):
        raise RuntimeError("the trainer and the bare loop end with different weights")
    ours, peer = bare.beside[WARM_UP:], bare.own[WARM_UP:]
    # Those steps count in which the ratio is neither among the highest nor the lowest quarter.
    ratios = [mine / its for mine, its in zip(ours, peer, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    kept = [place for place, ratio in enumerate(ratios) if low <= ratio <= high]
    means = (statistics.fmean(times[place] for place in kept) for times in (ours, peer))
    note = f"quartiles {low:.3f} and {high:.3f} of {len(ratios)} steps"
    yield Row("loop / trainer, beside a loop that prepares the same batches", "CPU-s", *means, note)
    yield Row("loop / weights after the last step", note=f"equal in every bit, after {trained.steps} steps")


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


PARTS: dict[str, Callable[[Photos, Path, Namespace], Iterator[Row]]] = {
    "data": lambda photos, folder, given: measure_data_wait(photos, folder, given.steps),
    "checkpoints": lambda photos, folder, given: measure_checkpoints(folder, given.rounds),
    "loop": lambda photos, folder, given: measure_loop(photos, folder, given.steps),
    "ranks": lambda photos, folder, given: measure_scaling(photos, folder, given.steps // 4, given.rounds),
}


def measure(given: Namespace) -> Iterator[Row]:
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
