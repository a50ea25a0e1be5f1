"""Padding and distinct sizes of training batches, in random order and in the order of training runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, at_most
from pipeline.data.images.training_view import DRAWS, ViewSettings, training_views
from pipeline.training.batches import WINDOW, snake
from pipeline.training.settings import TrainingSettings
from storage.stream.order import EpochOrder, OrderSettings, Samples, uniforms

SAMPLES = 20_003
"""No multiple of a batch, of a block or of a run, as real datasets have none."""
EPOCHS = 3
BATCH = 8
SYNTHETIC = [(640, 480), (640, 427), (480, 640), (500, 375), (427, 640), (640, 360), (640, 640), (500, 333)]
VIEWS = {
    "defaults": ViewSettings(),
    "scales and crops of the paper": ViewSettings(image_size=1333, shortest=tuple(range(480, 801, 32)), crop=0.5),
}


class ResampledPhotos:
    """Widths and heights of images of COCO, drawn with repetition."""

    def __init__(self, annotations: Path) -> None:
        draws = np.random.default_rng(0)
        there = json.loads(annotations.read_bytes())["images"] if annotations.is_file() else []
        sizes = np.array([(image["width"], image["height"]) for image in there] or SYNTHETIC)
        self.widths, self.heights = sizes[draws.integers(0, len(sizes), SAMPLES)].T
        self.identities = draws.integers(0, 2**63, SAMPLES, dtype=np.uint64)

    def view_sizes(self, epoch: int, samples: Samples, views: ViewSettings) -> NDArray[np.int64]:
        """Returns N x 2 heights and widths of the samples' views in an epoch."""
        draws = uniforms(0, epoch, self.identities[samples], DRAWS)
        return training_views(draws, self.widths[samples], self.heights[samples], views).sizes.astype(np.int64)


def measure_padding(annotations: Path) -> Iterator[Row]:
    """Yields share of padding and sizes per batch; ours is the order of training runs, the peer a random order."""
    photos = ResampledPhotos(annotations)
    for name, views in VIEWS.items():
        random = _batches(photos, views, 1)
        ours = _batches(photos, views, TrainingSettings().bucket)
        padding, sizes = ([measure(batches) for batches in (ours, random)] for measure in (_padding, _distinct))
        yield Row(f"batches / share of padding, {name}", "of tokens", *padding, at_most(0.10))
        yield Row(f"batches / sizes per batch of {BATCH}, {name}", "mean", *sizes, at_most(2))


def _batches(photos: ResampledPhotos, views: ViewSettings, run: int) -> NDArray[np.int64]:
    """Returns batches x `BATCH` x 2 heights and widths. Raises RuntimeError when an epoch lacks or repeats a sample."""

    def places(epoch: int, samples: Samples) -> NDArray[np.int64]:
        return snake(*photos.view_sizes(epoch, samples, views).T)

    order = EpochOrder(0, SAMPLES, 0, OrderSettings(window=WINDOW, run=run), places)
    sizes = []
    for epoch in range(EPOCHS):
        drawn = order.draw(epoch * SAMPLES, (epoch + 1) * SAMPLES).samples
        if not np.array_equal(np.sort(drawn), np.arange(SAMPLES)):
            raise RuntimeError(f"epoch {epoch} does not have each sample once")
        sizes.append(photos.view_sizes(epoch, drawn, views))
    joined = np.concatenate(sizes)
    return joined[: len(joined) // BATCH * BATCH].reshape(-1, BATCH, 2)


def _padding(batches: NDArray[np.int64]) -> float:
    """Share of a batch's tokens that are padding. Tokens are proportional to pixels."""
    whole = BATCH * batches.max(axis=1).prod(axis=1).sum()
    return float(1 - batches.prod(axis=2).sum() / whole)


def _distinct(batches: NDArray[np.int64]) -> float:
    """Mean number of distinct sizes in a batch: the calls of a backbone that gets no padding."""
    return float(np.mean([len(np.unique(batch, axis=0)) for batch in batches]))
