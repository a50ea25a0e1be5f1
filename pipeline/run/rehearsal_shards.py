"""Synthetic shards for a rehearsal: noise with the detail of photographs, with labels at random."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.training.config import Shard
from pipeline.training.sample import SampleBox, SampleRelation, TrainingSample
from pipeline.training.settings import TrainingSettings
from pipeline.training.vocabulary import STATISTICS_FILE, statistics_of
from storage.shards.index import ARTIFACT_INDEX
from storage.shards.writer import LABELS, Sample, write_shards
from storage.tables import write_table

Sizes = tuple[tuple[int, int], ...]
"""Widths and heights in pixels."""
SIZES: Sizes = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (640, 360))
"""Frequent ones in COCO."""
IMAGES, BOXES, RELATIONS = 64, 7, 3


def write_synthetic_shard(folder: Path, settings: TrainingSettings, sizes: Sizes) -> Shard:
    """Writes images of these sizes in turn. They use as many names as a step scores, if there are enough labels.

    `folder`: an empty one.
    """
    random, samples, labels = np.random.default_rng(0), [], {}
    for number in range(IMAGES):
        width, height = sizes[number % len(sizes)]
        label = random_label(number, width, height, settings, random)
        members = {"jpg": noise(width, height, random), LABELS: label.to_json()}
        samples.append(Sample(label.dataset, number, members, width, height))
        labels[samples[-1].key] = label
    index = write_shards(folder, samples, 2**40)
    write_table(index, folder / ARTIFACT_INDEX)
    write_table(statistics_of(index, labels), folder / STATISTICS_FILE)
    tar = index["shard"][0].as_py()
    return Shard(tar=str(folder / tar), name=tar, index=folder / ARTIFACT_INDEX, statistics=folder / STATISTICS_FILE)


def noise(width: int, height: int, random: np.random.Generator) -> bytes:
    """Returns a JPEG of smoothed noise, with the detail of a photograph."""
    grains = Image.fromarray(random.integers(0, 255, (max(height // 8, 1), max(width // 8, 1), 3), np.uint8))
    written = io.BytesIO()
    grains.resize((width, height), Image.Resampling.BICUBIC).save(written, "JPEG", quality=90)
    return written.getvalue()


def random_label(
    number: int, width: int, height: int, settings: TrainingSettings, random: np.random.Generator
) -> TrainingSample:
    """Returns labels of seven boxes and three relations, whose names follow from the image's number."""
    sides_N2 = random.uniform(0.1, 0.5, (BOXES, 2)) * (width, height)
    boxes = tuple(
        SampleBox(f"object {(number * BOXES + box) % settings.object_texts}", *corner, *side)
        for box, (corner, side) in enumerate(zip(sides_N2[::-1].tolist(), sides_N2.tolist(), strict=True))
    )
    names = [f"predicate {(number * RELATIONS + each) % settings.predicate_texts}" for each in range(RELATIONS)]
    relations = tuple(SampleRelation(0, box, name, surface=name) for box, name in enumerate(names, start=1))
    return TrainingSample(number, "synthetic", width, height, boxes, relations)
