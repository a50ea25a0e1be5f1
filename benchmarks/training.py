"""Measures training runs: `python -m benchmarks.training` (`--help`), on a quiet machine.

data         the share of a step that is spent waiting for data
checkpoints  the time that a training run stands still for a checkpoint of the released size (ParSeDA with ResNet-50 and
             RoBERTa-base, with AdamW's averages), beside torch.save of the same tensors
loop         the trainer beside a bare loop over the same micro-batches, with the same network, loss and optimiser and nothing
             else. Both take turns step by step, in one process with one thread, so that other work slows both
ranks        two ranks on two cores beside one rank on one core, for each way to share the work. Two ranks take twice the
             images, and no longer if nothing is lost. Ways take `--rounds` turns

All training runs are real ones of `--steps`, with TensorBoard, in processes of one thread, on photographs of `--megabytes`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, multiprocessing

from benchmarks.harness import Row, in_own_process, parser, run, wall_seconds
from benchmarks.photos import Part, Photos, measure_parts
from benchmarks.shards import linked_tars
from models.config import NetworkConfig
from models.network import Network
from models.rlip import RLIP
from pipeline.run.rehearsal_shards import random_label
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.batches import MicroBatches, Origin
from pipeline.training.checkpoints.checkpointer import Checkpointer, TrainingState
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.config import CHECKPOINTS, SAMPLES, TOKENIZER, VOCABULARY, Shard, TrainConfig
from pipeline.training.optimizer import make_optimizer, set_rates
from pipeline.training.ranks import Ranks
from pipeline.training.run import prepare
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import Draws, PretrainTask
from pipeline.training.tracking.flops import COUNTED
from pipeline.training.trainer import Check, Trainer, TrainingResult
from pipeline.training.vocabulary import STATISTICS_FILE, Vocabulary, statistics_of
from storage.shards.sample_map import SampleMap
from storage.shards.writer import Sample
from storage.stream.order import stable_seed
from storage.tables import write_table

WARM_UP = COUNTED + 1
"""First steps that are left out of times: in most of them, operations are counted in passes of their own."""
SMALL: dict[str, Any] = {
    "backbone": "resnet_w16_2_2_2_2", "backbone_norm": "group", "levels": 3, "width": 64, "encoder_layers": 2,
    "decoder_layers": 2, "feedforward": 256, "pairs": 20, "fusion_width": 128, "fusion_heads": 4,
    "text": {
        "hidden": 128, "layers": 2, "heads": 4, "feedforward": 256, "vocabulary": 1000, "max_positions": 40,
        "initial_deviation": 0.25,
    },
}  # fmt: skip
"""2 million parameters."""
MIDDLE = SMALL | {"backbone": "resnet18", "width": 128}
"""13 million parameters."""
SETTINGS = {
    "network": MIDDLE, "image_size": 320, "micro_batch": 4, "batch": 4, "processes": 1, "object_texts": 40,
    "predicate_texts": 20, "checkpoint_every": 1_000_000, "device": "cpu",
}  # fmt: skip


def as_a_rank() -> None:
    """Gives this process the settings of training processes, and one thread."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_freed_memory()


def make_config(folder: Path, shards: Sequence[Shard], **changes: Any) -> TrainConfig:
    """Prepares a new training in `folder`, below which its trackers write."""
    work = folder / "work"
    work.mkdir(parents=True)
    settings = TrainingSettings(**(SETTINGS | {"tracking": folder / "tracking"} | changes))
    config = TrainConfig(kind="pretrain", settings=settings, work=work, shards=tuple(shards))
    prepare(config)
    return config


def write_training_set(photos: Photos, folder: Path) -> list[Shard]:
    """Writes photographs with labels at random into a tar."""
    labels: dict[str, TrainingSample] = {}
    random, settings = np.random.default_rng(0), TrainingSettings(**SETTINGS)

    def labelled() -> Iterator[Sample]:
        for number, (path, (width, height)) in enumerate(zip(photos.paths, photos.sizes, strict=True)):
            label = replace(random_label(number, width, height, settings, random), dataset="coco")
            sample = Sample("coco", number, {"jpg": path.read_bytes(), "json": label.to_json()}, width, height)
            labels[sample.key] = label
            yield sample

    (tar,) = linked_tars(labelled(), folder, 1)
    name, statistics = Path(tar.tar).name, folder / STATISTICS_FILE
    write_table(statistics_of(pa.table({"key": list(labels), "shard": [name] * len(labels)}), labels), statistics)
    return [Shard(tar=tar.tar, name=name, index=tar.index, statistics=statistics)]


def of_one_size(photos: Photos) -> Photos:
    """Returns the photographs of the most frequent size, so that all micro-batches cost the same."""
    size = max(set(photos.sizes), key=photos.sizes.count)
    chosen = [path for path, its_size in zip(photos.paths, photos.sizes, strict=True) if its_size == size]
    return Photos(chosen, [size] * len(chosen), photos.origin)


def make_task(config: TrainConfig) -> PretrainTask:
    return PretrainTask(config.settings, Vocabulary.load(config.work / VOCABULARY), config.work / TOKENIZER)


def open_samples(config: TrainConfig) -> ShardSamples:
    return ShardSamples(SampleMap(config.work / SAMPLES))


def train(config: TrainConfig, ranks: Ranks | None = None, check: Check | None = None) -> TrainingResult:
    """Trains in this process and reports to nobody."""
    trainer = Trainer(config, make_task(config), open_samples(config), ranks or Ranks(), lambda *progress: None, check)
    return trainer.train(lambda: False)


class StepClock:
    """Measures the seconds of each step, by being called after each."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.steps: list[float] = []

    def is_due(self, step: int, total: int) -> bool:
        return True

    def measure(self, *of_the_step: object) -> Mapping[str, float]:
        now = time.perf_counter()
        self.steps.append(now - self._last)
        self._last = now
        return {}


def tracked(config: TrainConfig, name: str) -> dict[int, float]:
    events = EventAccumulator(str(config.tracking / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars(name)}


CPU = torch.device("cpu")
LOG_EVERY = 5
"""Four times as often as by default."""
ALONE = "one rank"
WAYS = (ALONE, "ddp", "fsdp", "tree")
Turn = tuple[str, TrainConfig]


def measure_data_wait(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the share of the time after the first entry of the log that a training run with one loader waits for data."""
    changes = {"num_workers": 1, "steps": given.steps, "log_every": WARM_UP}
    config = make_config(folder / "training", write_training_set(photos, folder / "set"), **changes)
    train(config)
    waited, speed = tracked(config, "data_wait"), tracked(config, "images_per_second")
    times = {step: 1 / speed[step] for step in sorted(waited)[1:]}
    share = 100 * sum(waited[step] * spent for step, spent in times.items()) / sum(times.values())
    yield Row("data / share of a step spent waiting", "%", share)


def measure_checkpoints(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the time of the first checkpoint of a process, and of later ones beside torch.save."""
    folder.mkdir()
    size, first, stall, peer = in_own_process(at_full_size, folder, given.rounds)
    yield Row(f"checkpoints / {size / 1e9:.1f} GB: standing still, beside torch.save", "s", stall, peer)
    yield Row("checkpoints / the same, first one of a process", "s", first)


def at_full_size(folder: Path, rounds: int) -> tuple[int, float, float, float]:
    """Returns the bytes of the state, and seconds: of our first checkpoint, of our best, and of the best by torch.save."""
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
    stalls = save(state, settings, folder, rounds + 1)
    peer = min(wall_seconds(lambda: save_and_sync(tensors, folder / "state.pt")) for _ in range(rounds))
    return sum(tensor.nbytes for tensor in tensors.values()), stalls[0], min(stalls[1:]), peer


def save(state: TrainingState, settings: TrainingSettings, folder: Path, saves: int) -> list[float]:
    """Saves some checkpoints. Returns the seconds that training stands still for each.

    Raises `RuntimeError` when the last one differs from the state.
    """
    checkpoints = Checkpointer(state, settings, folder, Ranks(), 1, lambda note: None)
    stalls = []
    for step in range(1, saves + 1):
        before = checkpoints.waited
        checkpoints.save(step, {})
        stalls.append(checkpoints.waited - before)
        checkpoints.finish()
    checkpoints.close()
    files = CheckpointFolder(folder / CHECKPOINTS)
    files.record(saves)
    (file,) = files.path(saves).glob("*.safetensors")
    with safe_open(file, "pt") as there:
        for name, tensor in state.tensors(0).items():
            if not torch.equal(there.get_tensor(name), tensor):
                raise RuntimeError(f"{name} differs in the checkpoint")
    shutil.rmtree(folder / CHECKPOINTS)
    return stalls


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


def measure_loop(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the time of the trainer beside that of the bare loop. Raises `RuntimeError` when their weights differ."""
    shards = write_training_set(photos, folder / "set")
    settings = {"batch": 8, "steps": given.steps + WARM_UP, "schedule": "cosine", "max_grad_norm": 1e6}
    config = make_config(folder / "training", shards, log_every=LOG_EVERY, **settings)
    bare = BareLoop(config)
    trained = train(config, check=bare)
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


def measure_scaling(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the time of a step of two ranks, beside one rank that takes half the images."""
    shards = write_training_set(of_one_size(photos), folder / "set")
    turns: list[Turn] = []
    for number in range(given.rounds):
        for way in WAYS:
            changes: dict[str, Any] = {"batch": 4 if way == ALONE else 8, "processes": 1 if way == ALONE else 2}
            changes |= {"parallel": way} if way in ("fsdp", "tree") else {}
            settings = {"network": SMALL, "steps": given.steps // 4 + WARM_UP} | changes
            turns.append((way, make_config(folder / f"{number}-{way}", shards, **settings)))
    multiprocessing.spawn(_rank, (folder, turns), nprocs=2)
    medians = json.loads((folder / "medians.json").read_bytes())
    found = {way: [seconds for (its, _), seconds in zip(turns, medians, strict=True) if its == way] for way in WAYS}
    for way in WAYS[1:]:
        pairs = sorted(zip(found[way], found[ALONE], strict=True), key=lambda pair: pair[0] / pair[1])
        yield Row(f"ranks / step of {way}, beside 1 rank", "s", *pairs[given.rounds // 2])


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
            medians.append(statistics.median(clock.steps[WARM_UP:]))
    if rank == 0:
        (folder / "medians.json").write_text(json.dumps(medians))
    dist.destroy_process_group()


PARTS: dict[str, Part] = {
    "data": measure_data_wait, "checkpoints": measure_checkpoints, "loop": measure_loop, "ranks": measure_scaling,
}  # fmt: skip


def measure(given: Namespace) -> Iterator[Row]:
    as_a_rank()
    yield from measure_parts(PARTS, given)


if __name__ == "__main__":
    options = parser(__doc__, steps=40, rounds=3, megabytes=60)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    run(options, measure)
