"""Compares the final loss of training in bf16 and in fp32: `python -m benchmarks.precision`.

Both train the same network with the same seed on the same synthetic scenes. The mean loss of the last steps counts.
"""

from __future__ import annotations

import io
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.harness import Row, at_most, parser, run
from benchmarks.pretraining.setup import make_config, train, write_labelled
from pipeline.run.recipe_files import load_recipe
from pipeline.training.config import METRICS_LOG, TrainConfig
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from scenes.scene import render
from scenes.world import make_scene
from storage.shards.writer import Sample

LAST = 20
"""Number of last steps whose mean loss is compared."""
SEED = 20_000
SETTINGS = {
    "batch": 16, "micro_batch": 16, "lr": 1e-3, "lr_backbone": 1e-3, "lr_text": 5e-4, "max_grad_norm": 1.0, "warmup": 20,
    "schedule": "cosine", "log_every": 1,
}  # fmt: skip


def scenes(count: int) -> Iterator[tuple[Sample, TrainingSample]]:
    """Yields scenes with their planted relations."""
    for number in range(count):
        scene = make_scene(SEED, number)
        boxes = tuple(SampleBox(thing.category, *thing.box) for thing in scene.objects)
        relations = tuple(SampleRelation(r.subject, r.object, r.predicate) for r in scene.relations)
        label = TrainingSample(number, "scenes", scene.width, scene.height, boxes, relations)
        image = io.BytesIO()
        render(scene).save(image, "PNG")
        members = {"png": image.getvalue(), "json": label.to_json()}
        yield Sample("scenes", number, members, scene.width, scene.height), label


def losses(config: TrainConfig) -> list[float]:
    """Trains and returns the loss of each step."""
    train(config)
    rows = MetricsLog(config.work / METRICS_LOG).table().to_pylist()
    return [row["value"] for row in rows if row["name"] == "loss"]


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the mean loss of the last steps in bf16 beside that in fp32."""
    torch.set_num_threads(given.threads)
    chosen = load_recipe(given.recipe).pretrain.settings
    settings = SETTINGS | {"network": chosen.network, "image_size": chosen.image_size, "steps": given.steps}
    ends = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = write_labelled(scenes(given.scenes), folder / "set")
        for precision in ("float32", "bfloat16"):
            every = losses(make_config(folder / precision, shards, **settings, precision=precision))
            ends[precision] = fmean(every[-LAST:])
            yield Row(f"first loss, {precision}", "", every[0])
    ours, peer = ends["bfloat16"], ends["float32"]
    yield Row(f"mean loss of the last {LAST} of {given.steps} steps, bf16 beside fp32", "", ours, peer)
    yield Row("difference", "%", 100 * abs(ours / peer - 1), goal=at_most(2))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument(
        "--recipe", type=Path, default=Path("recipes/demo.toml"), help="recipe of the network to train"
    )
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--scenes", type=int, default=1600)
    options.add_argument("--threads", type=int, default=2)
    run(options, measure)
