"""`rlip shards batch` names and draws what a training was given, from what the run has recorded of it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rlip_command import output_of
from run_builder import Made

from pipeline.cli.shards import batch
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.stage import Output
from pipeline.stages.pretrain import PretrainStage, TrainTaggerStage
from pipeline.stages.shard import ShardStage, ShardTaggerStage
from pipeline.training.batches import MicroBatches
from pipeline.training.config import HELD_OUT
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples, map_samples
from storage.errors import FatalError
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.runs import Run
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.tables import METRICS
from tests.training.conftest import TINY, config_of, ignore, packed, shard
from tests.training.test_batches import CPU, Unprepared

__all__ = ["shard"]
SETTINGS = TrainingSettings(**(TINY | {"steps": 6, "crop": 0.5, "shortest": (64, 96), "image_size": 160, "seed": 5}))
STEPS = range(1, 7)


def record(
    store: LocalStore,
    step: str,
    version: int,
    output: Callable[[Path], Output],
    settings: Mapping[str, Any] | None = None,
    shards: Path | None = None,
) -> Path:
    """Commits what a stage made in the run `toy`, here of `shards`. Returns the folder of its artifact."""
    name, partition = step.split(":")[0], "all" if shards else "made/0000"
    item = WorkItem(
        step, partition, KeyTerms(name, version, settings or {}, {"shards": ["x"]} if shards else {}),
        {"shards": (shards,)} if shards else {},
    )  # fmt: skip
    made = execute(Made(step, output), item, store, ignore)
    Run(store, "toy").record(step, name, {partition: made.key})
    return store.find(name, made.key).folder


def trained(work: Path) -> Output:
    """Claims to have trained."""
    rows = [{"step": 1, "name": "loss", "value": 1.0}]
    return Output(pa.Table.from_pylist(rows, schema=METRICS), rows_in=10, rows_out=10, facts={"steps": 6})


def train(
    store: LocalStore,
    settings: TrainingSettings,
    step: str = "pretrain:pseudo",
    version: int = PretrainStage.version,
    output: Callable[[Path], Output] = trained,
) -> None:
    shards = record(store, "shard:pseudo", ShardStage.version, packed)
    record(store, step, version, output, settings.row_settings() | {"seed": settings.seed}, shards)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "store")
    train(made, SETTINGS)
    return made


def asked(store: LocalStore, step: int, capsys: pytest.CaptureFixture[str], out: Path | None = None) -> dict[str, Any]:
    batch("toy", step, None, out, store=store.root, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_the_images_are_those_trained_on(store, tmp_path, capsys):
    (shards,) = Run(store, "toy").artifacts("shard:pseudo").values()
    files = [ShardFile(str(shards.file("shard-000.tar")), shards.file("shards.parquet"))]
    samples = ShardSamples(write_sample_map(tmp_path / "map", files))
    batches = MicroBatches(samples, SETTINGS, Unprepared(), {})
    parts = SETTINGS.micro_batches
    cropped = set()
    for step in STEPS:
        given = [one for part in range(parts) for one in batches[(step - 1) * parts + part].inputs.to(CPU)]
        told = asked(store, step, capsys)
        assert (told["step_name"], told["step"], told["steps"]) == ("pretrain:pseudo", step, 6)
        assert [
            (i["dataset"], i["image_id"], i["width"], i["height"], i["boxes"], i["relations"]) for i in told["images"]
        ] == [(s.dataset, s.image_id, s.width, s.height, len(s.boxes), len(s.relations)) for s in given]
        cropped |= {image["crop"] is not None for image in told["images"]}
    assert cropped == {True, False}


def test_a_step_is_drawn_as_it_was_seen(store, tmp_path, capsys):
    told, out = asked(store, 3, capsys), tmp_path / "batch.png"
    first, *lines, last = output_of("shards", "batch", "toy", "3", "--out", out, "--store", store.root).splitlines()
    assert first.startswith("Step 3 of 6 of pretrain:pseudo, run toy: 4 images, at most ")
    assert last == f"4 images drawn to {out}"
    for line, image in zip(lines, told["images"], strict=True):
        assert line.startswith(f"  made/{image['image_id']}: {image['width']}x{image['height']} pixels, ")
        assert ("mirrored" in line) == image["mirrored"] and ("a part" in line) == bool(image["crop"])
        assert f"(epoch {image['epoch']})" in line
    pixels = np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)
    idle = (pixels == (0x9A, 0x9A, 0x9A)).all(axis=1).sum()
    used = (pixels == (0x00, 0x72, 0xB2)).all(axis=1).sum()
    assert idle > 200 and used > 200, "boxes with and without relations"


def test_what_is_damaged_or_was_left_out_is_reported(store, tmp_path, capsys):
    image = asked(store, 1, capsys)["images"][1]
    other = LocalStore(tmp_path / "other")
    facts = {"steps": 6, "damaged": {image["key"]: "cut short"}}
    train(other, SETTINGS, output=lambda work: replace(trained(work), facts=facts))
    batch("toy", 1, None, None, store=other.root, as_json=False)
    assert f"  made/{image['image_id']}: excluded: cut short\n" in capsys.readouterr().out
    (shards,) = Run(other, "toy").artifacts("shard:pseudo").values()
    data = bytearray(shards.file("shard-000.tar").read_bytes())
    place = next(
        r for r in shards.table("shards").to_pylist() if r["key"] == asked(other, 1, capsys)["images"][0]["key"]
    )
    data[place["offset"] + 30] ^= 1
    shards.file("shard-000.tar").write_bytes(data)
    told = asked(other, 1, capsys, tmp_path / "batch.png")
    assert told["images"][0]["damage"] and "width" not in told["images"][0]
    assert (tmp_path / "batch.png").is_file()


def test_what_can_not_be_told_says_why(store):
    for step in (0, 7):
        with pytest.raises(FatalError, match=f"has steps 1 to 6, but no step {step}"):
            batch("toy", step, None, None, store=store.root, as_json=False)
    for name in ("pretrain:given", "shard:pseudo"):
        with pytest.raises(FatalError, match=f"no training run {name!r}; it has: pretrain:pseudo"):
            batch("toy", 1, name, None, store=store.root, as_json=False)
    train(store, SETTINGS.model_copy(update={"seed": 1}), "pretrain:pseudo:1")
    with pytest.raises(FatalError, match=r"2 training runs; .*of: pretrain:pseudo, pretrain:pseudo:1"):
        batch("toy", 1, None, None, store=store.root, as_json=False)
    train(store, SETTINGS.model_copy(update={"seed": 2}), "pretrain:pseudo:2", version=3)
    with pytest.raises(FatalError, match="version 3 of its stage"):
        batch("toy", 1, "pretrain:pseudo:2", None, store=store.root, as_json=False)
    (shards,) = Run(store, "toy").artifacts("shard:pseudo").values()
    shutil.rmtree(shards.folder)
    with pytest.raises(FatalError, match="1 of 1 shards that the training run read are missing"):
        batch("toy", 1, "pretrain:pseudo", None, store=store.root, as_json=False)


def test_images_that_a_tagger_holds_out_are_in_no_batch(shard, tmp_path, capsys):
    store = LocalStore(tmp_path / "store")
    shards = record(store, "shard_tagger", ShardTaggerStage.version, packed)
    config = config_of(tmp_path, shard, steps=6, held_out=0.5)
    record(store, "train_tagger", TrainTaggerStage.version, trained, config.settings.row_settings(), shards)
    map_samples(config)
    held_out = SampleMap(tmp_path / HELD_OUT)
    seen = {image["key"] for step in STEPS for image in asked(store, step, capsys)["images"]}
    assert 0 < len(held_out) < 10
    assert seen == {f"made-{number:012d}" for number in range(1, 11)} - {held_out.key(n) for n in range(len(held_out))}
