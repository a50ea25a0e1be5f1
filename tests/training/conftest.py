"""A tiny training set in a shard, and a network small enough to train in seconds."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.runtime.stage import Output
from pipeline.training import throughput
from pipeline.training.config import Shard, Summary, TrainConfig
from pipeline.training.launch.launcher import launch, prepare
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from pipeline.training.settings import TaggerSettings, TrainingSettings
from pipeline.training.vocabulary import statistics_of
from storage.shards.writer import Sample, sample_key, write_shards
from storage.tables import read_table, write_table
from tests.data.toy_sets import encoded

# Counting the operations of a step takes as long as four steps. Tests that are about it set another number.
throughput.COUNTED = 0

BACKBONE = {"backbone": "test_byobnet", "backbone_norm": "group", "backbone_strides": [16, 32], "levels": 2}
SIZES = {"width": 32, "heads": 2, "points": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 32, "pairs": 6}
FUSION = {"fusion_interval": 1, "fusion_width": 32, "fusion_heads": 2}
TEXT = {"hidden": 32, "layers": 1, "heads": 2, "feedforward": 32, "vocabulary": 400, "max_positions": 16}
TEXT |= {"dropout": 0.1, "initial_deviation": 0.25}
NETWORK = {**BACKBONE, **SIZES, **FUSION, "dropout": 0.1, "text": TEXT}
BATCH = {"batch": 4, "micro_batch": 2, "image_size": 64}
RATES = {"lr": 1e-3, "lr_backbone": 1e-3, "lr_text": 1e-3, "warmup": 2, "schedule": "cosine"}
TINY = {"network": NETWORK, **BATCH, **RATES, "max_grad_norm": 1.0, "log_every": 2}
"""Settings of a training run that takes seconds. Dropout is on, so that resuming must restore its randomness too."""


def config_of(work: Path, *shards: Shard, **changes: Any) -> TrainConfig:
    """The configuration of a training run with `TINY` settings and `changes`: with `held_out`, of a tagger."""
    values = TINY | {"tracking": work.parent / "tracking"} | changes
    settings = (TaggerSettings if "held_out" in changes else TrainingSettings)(**values)
    return TrainConfig(settings=settings, work=work, shards=shards)


def train_as_a_stage(work: Path, *shards: Shard, **changes: Any) -> Summary:
    """Trains in processes, as a stage does."""
    config = config_of(work, *shards, **changes)
    prepare(config)
    return launch(config, ignore)


def ignore(done: int, total: int, note: str = "") -> None:
    pass


def metrics(work: Path) -> list[dict[str, Any]]:
    """The rows of metrics that a training run has written."""
    return MetricsLog(work / "metrics.jsonl").table().to_pylist()


def picture(seed: int) -> bytes:
    """Returns a JPEG of noise."""
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 80, 3), np.uint8)), "JPEG")


def sample(image_id: int) -> TrainingSample:
    """Returns a person, a dog and a kite. In every other image the person holds the kite."""
    boxes = (
        SampleBox("person", 5.0, 5.0, 20.0, 50.0),
        SampleBox("dog", 40.0, 30.0, 30.0, 25.0),
        SampleBox("kite", 20.0, 5.0 + image_id % 10, 10.0, 10.0),
    )
    relations = (SampleRelation(0, 2, "hold"), SampleRelation(0, 1, "left of", 0.5)) if image_id % 2 else ()
    return TrainingSample(image_id, "made", 80, 60, boxes, relations)


def write_shard(folder: Path, labels: list[TrainingSample]) -> Shard:
    """Writes samples of noise as stage `shard` does."""
    samples = [
        Sample(one.dataset, one.image_id, {"jpg": picture(one.image_id), "json": one.to_json()}, one.width, one.height)
        for one in labels
    ]
    index = write_shards(folder, samples, 2**30)
    write_table(index, folder / "shards.parquet")
    write_table(statistics(labels), folder / "statistics.parquet")
    tar = str(folder / "shard-000.tar")
    return Shard(
        tar=tar, name="shard-000.tar", index=folder / "shards.parquet", statistics=folder / "statistics.parquet"
    )


def packed(work: Path) -> Output:
    """What stage `shard` makes of ten images of noise."""
    shard = write_shard(work, [sample(number) for number in range(1, 11)])
    return Output(read_table(shard.index), {n: work / n for n in ("shard-000.tar", "statistics.parquet")})


def statistics(labels: list[TrainingSample]) -> pa.Table:
    """Counts samples as if all were in one tar."""
    keys = [sample_key(one.dataset, one.image_id) for one in labels]
    index = pa.table({"key": keys, "shard": ["shard-000.tar"] * len(keys)})
    return statistics_of(index, dict(zip(keys, labels, strict=True)))


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """A shard of ten images."""
    return write_shard(tmp_path_factory.mktemp("shard"), [sample(i) for i in range(1, 11)])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty work folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def order_fault(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Orders a fault of the stand-in worker."""
    return lambda **fault: monkeypatch.setenv("FAULT", json.dumps(fault))


@pytest.fixture
def address() -> str:
    """A free address for the coordinator."""
    with socket.create_server(("127.0.0.2", 0)) as listener:
        return f"127.0.0.2:{listener.getsockname()[1]}"
