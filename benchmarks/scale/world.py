"""Writes a dataset in Objects365's layout for the rehearsal, and the recipe that runs the whole chain over it.

Images are hard links to a few small JPEGs, at most `LINKS` names to each, because a file system limits the names of a file.
Each name is still looked up, opened, read, decoded and hashed on its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.photos import write_noise
from benchmarks.scale import captioner

CATEGORIES = """
person man woman child dog cat horse cow sheep bird car bus truck train boat bicycle motorcycle airplane bench
chair couch bed table tv laptop phone book clock vase bottle cup bowl fork knife spoon plate apple banana
orange pizza cake hat shirt shoe bag umbrella kite ball bat glove skateboard surfboard snowboard racket tree
flower house window door street sign light fence wall floor grass water sand snow sky
""".split()  # noqa: SIM905
NAME = "rehearsal"
WIDTH, HEIGHT = 96, 64
LINKS = 20_000
PATCH = 35_000
"""Images of a folder, about as many as in Objects365's archives."""
BOXES = 13.7
"""Boxes of an image in the mean: 25 million on 1,820,000 images."""
BLOCK = 1000
"""Images that are drawn together, so that a larger set begins with the same images."""
_ROOT = Path(__file__).resolve().parents[2]
_RECIPE = """
name = "{name}"
store = "{folder}/store"
reports = "{folder}/reports"
[data]
root = "{folder}/data"
partition_size = {partition}
label = ["objects"]
[[data.sources]]
name = "objects"
format = "objects365"
images = "images"
annotations = "annotations.json"
[caption]
captioner = "lavis"
model = "{folder}/captioner"
lavis_python = "{folder}/captioner/python"
draws = {draws}
[tag]
method = "prior"
weights = "{root}/scenes/weights/tagger"
[shard]
threshold = 0.05
[pretrain]
variants = ["pseudo"]
[pretrain.settings]
steps = 2
batch = 4
micro_batch = 2
processes = 1
image_size = 64
checkpoint_every = 1
log_every = 1
[pretrain.settings.network]
backbone = "test_resnet"
backbone_norm = "group"
backbone_strides = [8, 16]
levels = 3
width = 32
heads = 2
encoder_layers = 1
decoder_layers = 1
feedforward = 64
pairs = 4
fusion_width = 32
fusion_heads = 2
fusion_interval = 1
text = {{ hidden = 32, layers = 1, heads = 2, feedforward = 64, vocabulary = 300, max_positions = 24, dropout = 0.0 }}
[run]
blocks = 256
workers = {workers}
"""


@dataclass(frozen=True)
class World:
    """The folder of a rehearsal, and the sizes of what is written into it."""

    folder: Path
    images: int
    partition: int
    draws: int = 2
    workers: int = 2
    seconds: float = 0.0
    """How long the stand-in takes for an image."""

    @property
    def recipe(self) -> Path:
        return self.folder / f"{NAME}.toml"

    def write(self) -> None:
        """Writes images, annotations, the captioner's files and the recipe into a new folder."""
        self.add(0, self.images)
        model = self.folder / "captioner"
        model.mkdir()
        torch.save({"model": {"nothing": torch.zeros(1)}}, model / "captioner.pth")
        (model / "captioner.json").write_text(json.dumps({"seconds": self.seconds}))
        (model / "vocab.txt").write_text("\n".join(CATEGORIES))
        (model / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{captioner.__file__}"\n')
        (model / "python").chmod(0o755)
        values = {"name": NAME, "folder": self.folder, "root": _ROOT, "partition": self.partition}
        self.recipe.write_text(_RECIPE.format(**values, draws=self.draws, workers=self.workers))

    def add(self, first: int, end: int) -> None:
        """Writes the images `first` to `end`, and annotations of all images up to `end`."""
        folder = self.folder / "data" / "images"
        originals = write_noise(self.folder / "originals" / str(first), -(-(end - first) // LINKS), WIDTH, HEIGHT)
        for number in range(first, end):
            path = folder / _name(number)
            if number % PATCH == 0 or number == first:
                path.parent.mkdir(parents=True, exist_ok=True)
            os.link(originals[(number - first) // LINKS], path)
        with (self.folder / "data" / "annotations.json").open("w", 2**20) as file:
            file.write('{"images": [')
            for number in range(end):
                named = f'"id": {number + 1}, "file_name": "images/v2/{_name(number)}", "license": 5, "url": ""'
                file.write(f'{", " if number else ""}{{"height": {HEIGHT}, "width": {WIDTH}, {named}}}')
            file.write('], "annotations": [')
            for count, line in enumerate(_boxes(end)):
                file.write(f"{', ' if count else ''}{line}")
            names = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)]
            file.write(f'], "categories": {json.dumps(names)}}}')


def _name(number: int) -> str:
    return f"patch{number // PATCH}/objects365_v2_{number + 1:08}.jpg"


def _boxes(images: int) -> Iterator[str]:
    shares = np.cumsum(1 / np.arange(1, len(CATEGORIES) + 1))
    for start in range(0, images, BLOCK):
        generator = np.random.default_rng(start)
        counts = 1 + generator.poisson(BOXES - 1, BLOCK)
        number = int(counts.sum())
        w, h = generator.uniform(4, 40, number), generator.uniform(4, 40, number)
        x, y = generator.random(number) * (WIDTH - w), generator.random(number) * (HEIGHT - h)
        of = 1 + np.searchsorted(shares, generator.random(number) * shares[-1])
        sides = np.stack([x, y, w, h], 1).round(2).tolist()
        on = (start + np.repeat(np.arange(BLOCK), counts)).tolist()
        for row, (box, image, category) in enumerate(zip(sides, on, of.tolist(), strict=True)):
            if image < images:
                ids = f'"id": {image * 1000 + row}, "image_id": {image + 1}, "category_id": {category}'
                yield f'{{{ids}, "bbox": {box}, "iscrowd": 0, "isfake": 0, "isreflected": 0}}'
