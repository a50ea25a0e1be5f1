"""Compares the final loss of training in bf16 and in fp32: `python benchmarks/precision.py`.

Both train the same network with the same seed on the same synthetic scenes. The mean loss of the last steps counts.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
from pathlib import Path

import torch

from models.config import NO_OBJECTS
from pipeline.run.recipe import load_recipe
from pipeline.training.ranks import Ranks
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.task import PretrainTask
from pipeline.training.trainer import train
from pipeline.training.vocabulary import Vocabulary, make_tokenizer
from scenes.draw import render
from scenes.world import make_scene

GOAL = 0.02
LAST = 20
"""Number of last steps whose mean loss is compared."""


class Scenes:
    """Training samples from the scenes of one seed and their planted relations."""

    def __init__(self, seed: int, count: int) -> None:
        self._scenes = [make_scene(seed, index) for index in range(count)]

    def __len__(self) -> int:
        return len(self._scenes)

    def labels(self, position: int) -> TrainingSample:
        scene = self._scenes[position]
        return TrainingSample(
            image_id=position,
            dataset="scenes",
            width=scene.width,
            height=scene.height,
            boxes=tuple(SampleBox(thing.category, *thing.box) for thing in scene.objects),
            relations=tuple(SampleRelation(r.subject, r.object, r.predicate) for r in scene.relations),
        )

    def image(self, position: int) -> bytes:
        buffer = io.BytesIO()
        render(self._scenes[position]).save(buffer, "PNG")
        return buffer.getvalue()


def losses(source: Scenes, settings: TrainingSettings, folder: Path) -> list[float]:
    """Trains and returns the loss of each step."""
    vocabulary = Vocabulary.of(source.labels(position) for position in range(len(source)))
    names = (*vocabulary.objects.names, *vocabulary.predicates.names, NO_OBJECTS)
    make_tokenizer(names, settings.network["text"]["vocabulary"], folder / "tokenizer")
    task = PretrainTask(settings, vocabulary, folder / "tokenizer")
    train(task, source, settings, folder, Ranks(), lambda: False, lambda step, total, note: None)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
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
    settings = TrainingSettings(
        network=chosen.network,
        steps=given.steps,
        batch=16,
        lr=1e-3,
        lr_backbone=1e-3,
        lr_text=5e-4,
        clip=1.0,
        warmup=20,
        schedule="cosine",
        image_size=chosen.image_size,
        log_every=1,
        processes=1,
    )
    source = Scenes(seed=20_000, count=given.scenes)
    ends: dict[str, float] = {}
    for precision in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as folder:
            every = losses(source, settings.model_copy(update={"precision": precision}), Path(folder))
        ends[precision] = statistics.mean(every[-LAST:])
        print(
            f"{precision}: first loss {every[0]:.3f}, mean {ends[precision]:.4f} of the last {LAST} of {len(every)} steps"
        )
    apart = abs(ends["bfloat16"] / ends["float32"] - 1)
    print(f"difference {apart:.2%}; goal: at most {GOAL:.0%}, {'reached' if apart <= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
