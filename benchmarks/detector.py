"""Trains the detector that pre-training on scenes starts from, as RLIPv2 starts from a detector trained without relations.

    python -m benchmarks.detector --out scenes/weights/detector --work out/detector

Resumable: the same command goes on from the last checkpoint. The scenes are of a seed that no recipe uses, and only
their boxes are shown: no relation and no caption.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from models.weights import load
from pipeline.evaluation.detection import average_precision_50
from pipeline.evaluation.hico import HicoRules
from pipeline.evaluation.zero_shot import TestNames, ZeroShot, truth_detections
from pipeline.training.job import MODEL, Job, Shard
from pipeline.training.launch import launch
from pipeline.training.prepare import prepare
from pipeline.training.sample import SampleBox, TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.sources import ShardSource
from scenes.draw import render
from scenes.world import make_scene
from storage.shards import Sample, write_shard
from storage.tables import write_table

SEED = 70707
TEST_SEED = 70708
SCENES_A_SHARD = 1000


def main() -> None:
    """Draw scenes, train, measure on other scenes, and leave the weights in `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.toml"), help="where the network's sizes are")
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    shards = draw(work, SEED, options.scenes, options.processes)
    section = tomllib.loads(options.recipe.read_text())["pretrain"]["settings"]
    settings = TrainingSettings(
        network=section["network"],
        tokenizer=section["tokenizer"],
        image_size=section["image_size"],
        steps=options.steps,
        batch=16,
        lr=7e-4,
        lr_backbone=7e-4,
        lr_text=7e-4,
        clip=1.0,
        schedule="cosine",
        warmup=50,
        log_every=100,
        checkpoint_every=200,
        processes=options.processes,
    )
    job = Job(kind="pretrain", settings=settings, work=work, shards=tuple(shards))
    prepare(job)
    began = time.monotonic()
    summary = launch(job, lambda done, total, note="": print(f"\r{done}/{total} {note}", end="", flush=True))
    print(f"\n{summary.images_per_second} images/s, {time.monotonic() - began:.0f} s")
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / MODEL, options.out / MODEL)
    scores = measure(work, draw(work, TEST_SEED, 300, options.processes), section["image_size"])
    print(json.dumps({"ap50": round(float(np.mean(list(scores.values()))), 3)} | scores))


def draw(work: Path, seed: int, count: int, processes: int) -> list[Shard]:
    """Scenes with their boxes, in shards; those that exist are kept."""
    shards = []
    with ProcessPoolExecutor(processes) as pool:
        for first in range(0, count, SCENES_A_SHARD):
            numbers = range(first, min(first + SCENES_A_SHARD, count))
            shards.append(Shard(tar=work / f"{seed}-{first}.tar", index=work / f"{seed}-{first}.parquet"))
            if not shards[-1].index.is_file():
                drawn: Iterator[Sample] = pool.map(_scene, [seed] * len(numbers), numbers, chunksize=20)
                write_table(write_shard(shards[-1].tar, drawn), shards[-1].index)
    return shards


def _scene(seed: int, number: int) -> Sample:
    scene = make_scene(seed, number)
    buffer = io.BytesIO()
    render(scene).save(buffer, "JPEG", quality=90)
    boxes = tuple(SampleBox(each.category, *(float(side) for side in each.box)) for each in scene.objects)
    labels = TrainingSample(number, "scenes", scene.width, scene.height, boxes, ())
    return Sample(number, {"jpg": buffer.getvalue(), "json": labels.to_json()})


def measure(work: Path, shards: list[Shard], image_size: int) -> dict[str, float]:
    """Detection AP50 by category."""
    source = ShardSource([(shard.tar, shard.index) for shard in shards])
    labels = [source.labels(position) for position in range(len(source))]
    rows = [{"boxes": [box._asdict() for box in sample.boxes]} for sample in labels]
    images = [Image.open(io.BytesIO(source.image(position))).convert("RGB") for position in range(len(source))]
    names = TestNames(tuple(sorted({box["category"] for row in rows for box in row["boxes"]})), ())
    model = ZeroShot(load(work / MODEL, work / "tokenizer"), names, image_size, None)
    found = sorted(model.predict(images, HicoRules(), 16, lambda done, total, note="": None), key=lambda each: each[0])
    scores = average_precision_50([each[2] for each in found], [truth_detections(row, names) for row in rows])
    return {names.objects[label]: round(score, 3) for label, score in scores.items()}


if __name__ == "__main__":
    main()
