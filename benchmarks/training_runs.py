"""What the parts of the training benchmark share: two networks, a training set of photographs with labels at random, and
training runs in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.photos import Photos
from benchmarks.shards import linked_tars
from pipeline.run.rehearsal_shards import random_label
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.config import SAMPLES, TOKENIZER, VOCABULARY, Shard, TrainConfig
from pipeline.training.ranks import Ranks
from pipeline.training.run import prepare
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import PretrainTask
from pipeline.training.tracking.flops import COUNTED
from pipeline.training.trainer import Check, Trainer, TrainingResult
from pipeline.training.vocabulary import STATISTICS_FILE, Vocabulary, statistics_of
from storage.shards.sample_map import SampleMap
from storage.shards.writer import Sample
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


def make_trainer(config: TrainConfig, ranks: Ranks | None = None, check: Check | None = None) -> Trainer:
    """Returns a trainer in this process that reports to nobody."""
    return Trainer(config, make_task(config), open_samples(config), ranks or Ranks(), lambda *progress: None, check)


def train(config: TrainConfig, **given: Any) -> TrainingResult:
    return make_trainer(config, **given).train(lambda: False)


class Seconds(NamedTuple):
    """Time that passed, and that the threads of this process computed."""

    wall: float
    cpu: float


class StepClock:
    """Measures the time of each step, by being called after each."""

    def __init__(self) -> None:
        self._last = self._now()
        self.steps: list[Seconds] = []

    def is_due(self, step: int, total: int) -> bool:
        return True

    def measure(self, *of_the_step: object) -> Mapping[str, float]:
        """Notes the time since the last call."""
        now = self._now()
        self.steps.append(Seconds(now.wall - self._last.wall, now.cpu - self._last.cpu))
        self._last = now
        return {}

    def _now(self) -> Seconds:
        return Seconds(time.perf_counter(), time.process_time())


def tracked(config: TrainConfig, name: str) -> dict[int, float]:
    events = EventAccumulator(str(config.tracking / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars(name)}
