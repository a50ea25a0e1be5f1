"""Compares the final loss of training in bf16 and in fp32: `python -m benchmarks.precision`.

Both train the same network with the same seed on the same synthetic scenes. The mean loss of the last steps counts.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.pretraining.setup import make_config, train
from pipeline.run.recipe import load_recipe
from pipeline.training.config import METRICS_LOG, Shard, TrainConfig
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from pipeline.training.statistics import STATISTICS_FILE, statistics_of
from scenes.scene import render
from scenes.world import make_scene
from storage.shards.writer import Sample, write_shards
from storage.tables import write_table

GOAL = 0.02
LAST = 20
"""Number of last steps whose mean loss is compared."""


def write_scenes(folder: Path, seed: int, count: int) -> Shard:
    """Writes scenes and their planted relations as a tar."""
    samples, labels = [], {}
    for number in range(count):
        scene = make_scene(seed, number)
        label = TrainingSample(
            image_id=number,
            dataset="scenes",
            width=scene.width,
            height=scene.height,
            boxes=tuple(SampleBox(thing.category, *thing.box) for thing in scene.objects),
            relations=tuple(SampleRelation(r.subject, r.object, r.predicate) for r in scene.relations),
        )
        image = io.BytesIO()
        render(scene).save(image, "PNG")
        members = {"png": image.getvalue(), "json": label.to_json()}
        samples.append(Sample("scenes", number, members, scene.width, scene.height))
        labels[samples[-1].key] = label
    index = write_shards(folder, samples, 2**30)
    write_table(index, folder / "shards.parquet")
    write_table(statistics_of(index, labels), folder / STATISTICS_FILE)
    (tar,) = folder.glob("*.tar")
    return Shard(tar=str(tar), name=tar.name, index=folder / "shards.parquet", statistics=folder / STATISTICS_FILE)


def losses(config: TrainConfig) -> list[float]:
    """Trains and returns the loss of each step."""
    train(config)
    rows = MetricsLog(config.work / METRICS_LOG).table().to_pylist()
    return [row["value"] for row in rows if row["name"] == "loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=Path("recipes/demo.toml"), help="recipe of the network to train")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    chosen = load_recipe(given.recipe).pretrain.settings
    settings = {
        "network": chosen.network,
        "steps": given.steps,
        "batch": 16,
        "micro_batch": 16,
        "lr": 1e-3,
        "lr_backbone": 1e-3,
        "lr_text": 5e-4,
        "max_grad_norm": 1.0,
        "warmup": 20,
        "schedule": "cosine",
        "image_size": chosen.image_size,
        "log_every": 1,
    }
    ends: dict[str, float] = {}
    for precision in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "set").mkdir()
            shard = write_scenes(folder / "set", seed=20_000, count=given.scenes)
            every = losses(make_config(folder / precision, [shard], **settings, precision=precision))
        ends[precision] = statistics.mean(every[-LAST:])
        print(
            f"{precision}: first loss {every[0]:.3f}, mean {ends[precision]:.4f} of the last {LAST} of {len(every)} steps"
        )
    apart = abs(ends["bfloat16"] / ends["float32"] - 1)
    print(f"difference {apart:.2%}; goal: at most {GOAL:.0%}, {'reached' if apart <= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
