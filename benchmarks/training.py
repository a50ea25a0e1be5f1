"""Measures training runs: `python -m benchmarks.training` (`--help`), on a quiet machine.

data         the share of a step that is spent waiting for data
checkpoints  the time that a training run stands still for a checkpoint of the released size (ParSeDA with ResNet-50 and
             RoBERTa-base, with AdamW's averages), beside torch.save of the same tensors
loop         the trainer beside a bare loop over the same micro-batches, with the same network, loss and optimiser and
             nothing else. Both take turns step by step, in one process with one thread, so that other work slows both
ranks        two ranks on two cores beside one rank on one core, for each way to share the work. Two ranks take twice
             the images, and no longer if nothing is lost. Ways take `--rounds` turns

All training runs are real ones of `--steps`, with TensorBoard, in processes of one thread, on images of a rehearsal.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from benchmarks.harness import Row, in_own_process, parser, run, wall_seconds
from models.config import NetworkConfig
from models.network import Network
from models.rlip import RLIP
from pipeline.run.rehearsal_shards import SIZES, Sizes, write_synthetic_shard
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.batches import MicroBatches
from pipeline.training.checkpointer import Checkpointer, TrainingState
from pipeline.training.config import CHECKPOINTS, SAMPLES, TOKENIZER, VOCABULARY, Shard, TrainConfig
from pipeline.training.launch.launcher import prepare, run_training
from pipeline.training.optimizer import make_optimizer, set_rates
from pipeline.training.ranks import Ranks
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import Draws, PretrainTask
from pipeline.training.throughput import COUNTED
from pipeline.training.trainer import Trainer
from pipeline.training.vocabulary import Vocabulary
from pipeline.training.worker import be_deterministic
from storage.disk import LOCAL
from storage.shards.sample_map import SampleMap
from storage.stream.order import stable_seed

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


def make_config(folder: Path, shard: Shard, **changes: Any) -> TrainConfig:
    """Returns a new training in `folder`, below which its trackers write."""
    work = folder / "work"
    work.mkdir(parents=True)
    settings = TrainingSettings(**(SETTINGS | {"tracking": folder / "tracking"} | changes))
    return TrainConfig(settings=settings, work=work, shards=(shard,))


def write_set(folder: Path, sizes: Sizes = SIZES) -> Shard:
    folder.mkdir(parents=True)
    return write_synthetic_shard(folder, TrainingSettings(**SETTINGS), sizes)


def make_task(config: TrainConfig) -> PretrainTask:
    return PretrainTask(config.settings, Vocabulary.load(config.work / VOCABULARY), config.work / TOKENIZER)


def open_samples(config: TrainConfig) -> ShardSamples:
    return ShardSamples(SampleMap(config.work / SAMPLES))


def tracked(config: TrainConfig, name: str) -> dict[int, float]:
    events = EventAccumulator(str(config.tracking / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars(name)}


CPU = torch.device("cpu")
LOG_EVERY = 5
"""Four times as often as by default."""
ALONE = "one rank"
WAYS: dict[str, dict[str, Any]] = {
    ALONE: {"batch": 4, "processes": 1}, "ddp": {"batch": 8, "processes": 2},
    **{way: {"batch": 8, "processes": 2, "parallel": way} for way in ("fsdp", "tree")},
}  # fmt: skip


def measure_data_wait(folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the share of the time after the log's first entry that a training run with one loader waits for data."""
    changes = {"num_workers": 1, "steps": given.steps, "log_every": WARM_UP}
    config = make_config(folder / "training", write_set(folder / "set"), **changes)
    run_training(config, lambda *progress: None)
    waited, speed = tracked(config, "data_wait"), tracked(config, "images_per_second")
    times = {step: 1 / speed[step] for step in sorted(waited)[1:]}
    share = 100 * sum(waited[step] * spent for step, spent in times.items()) / sum(times.values())
    yield Row("data / share of a step spent waiting", "%", share)


def measure_checkpoints(folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the time of the first checkpoint of a process, and of later ones beside torch.save."""
    folder.mkdir()
    size, first, stall, peer = in_own_process(at_full_size, folder, given.rounds)
    yield Row(f"checkpoints / {size / 1e9:.1f} GB: standing still, beside torch.save", "s", stall, peer)
    yield Row("checkpoints / the same, first one of a process", "s", first)


def at_full_size(folder: Path, rounds: int) -> tuple[int, float, float, float]:
    """Returns the state's bytes, and seconds: of our first checkpoint, of our best, and of the best by torch.save."""
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
    checkpoints, stalls = Checkpointer(state, settings, folder, Ranks(), 1, lambda note: None), []
    for step in range(1, rounds + 2):
        before = checkpoints.waited
        checkpoints.save(step, {})
        stalls.append(checkpoints.waited - before)
        checkpoints.finish()
    checkpoints.close()
    shutil.rmtree(folder / CHECKPOINTS)
    tensors = state.tensors(0)
    peer = min(wall_seconds(lambda: save_and_sync(tensors, folder / "state.pt")) for _ in range(rounds))
    return sum(tensor.nbytes for tensor in tensors.values()), stalls[0], min(stalls[1:]), peer


def save_and_sync(tensors: dict[str, Tensor], path: Path) -> None:
    """Calls torch.save and waits for the disk, as ours does."""
    torch.save(tensors, path)
    LOCAL.sync_file(path)


class BareLoop:
    """Trains a network as a short script would. Called after each step of a trainer, it then runs the same step."""

    def __init__(self, config: TrainConfig) -> None:
        self._settings = config.settings
        self._task = make_task(config)
        self._batches = MicroBatches(open_samples(config), config.settings, self._task, {})
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


def measure_loop(folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the time of the trainer beside that of the bare loop. Raises `RuntimeError` when their weights differ."""
    settings = {"batch": 8, "steps": given.steps + WARM_UP, "schedule": "cosine", "max_grad_norm": 1e6}
    config = make_config(folder / "training", write_set(folder / "set"), log_every=LOG_EVERY, **settings)
    prepare(config)
    be_deterministic(torch.device("cpu"))  # as training processes are
    torch.set_num_threads(1)
    keep_freed_memory()
    bare = BareLoop(config)
    samples = open_samples(config)
    trained = Trainer(config, make_task(config), samples, Ranks(), lambda *_: None, bare).train(lambda: False)
    theirs = bare.network.state_dict()
    if not all(torch.equal(value, theirs[name]) for name, value in trained.network.state_dict().items()):
        raise RuntimeError("the trainer and the bare loop end with different weights")
    pair = median_pair(bare.beside[WARM_UP:], bare.own[WARM_UP:])
    yield Row("loop / trainer, beside a loop that prepares the same batches", "CPU-s", *pair)


def median_pair(ours: Sequence[float], peers: Sequence[float]) -> tuple[float, float]:
    """Returns the pair of times whose ratio is the median."""
    pairs = sorted(zip(ours, peers, strict=True), key=lambda pair: pair[0] / pair[1])
    return pairs[len(pairs) // 2]


def measure_scaling(folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields the time of a step of two ranks, beside one rank that takes half the images."""
    shard = write_set(folder / "set", SIZES[:1])  # all micro-batches cost the same
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        for way, changes in WAYS.items():
            settings = {"network": SMALL, "steps": given.steps // 4 + WARM_UP, "log_every": 1, **changes}
            config = make_config(folder / f"{number}-{way}", shard, **settings)
            run_training(config, lambda *progress: None)
            speeds = tracked(config, "images_per_second")
            found[way].append(statistics.median(changes["batch"] / speeds[step] for step in speeds if step > WARM_UP))
    alone = found.pop(ALONE)
    for way, seconds in found.items():
        yield Row(f"ranks / step of {way}, beside 1 rank", "s", *median_pair(seconds, alone))


PARTS: dict[str, Callable[[Path, Namespace], Iterator[Row]]] = {
    "data": measure_data_wait, "checkpoints": measure_checkpoints, "loop": measure_loop, "ranks": measure_scaling,
}  # fmt: skip


def measure(given: Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts:
            yield from PARTS[part](Path(folder) / part, given)


if __name__ == "__main__":
    options = parser(__doc__, steps=40, rounds=3)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    run(options, measure)
