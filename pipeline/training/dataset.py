"""The images of a step, decoded and changed, ready for a network: a pure function of seed and step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.images.opening import BadImage
from pipeline.training.sampler import Order, Place, stable_seed
from pipeline.data.images.views import load_pixels, random_view
from pipeline.training.sample import TrainingSample, mirrored
from pipeline.training.settings import TrainingSettings
from pipeline.training.sources import Source
from storage.errors import Terminal


@dataclass(frozen=True)
class Example:
    """One image as a step sees it: pixels 3×H×W and its labels, both mirrored when the view is."""

    pixels: torch.Tensor
    sample: TrainingSample


class StepExamples(torch.utils.data.Dataset[list[Example]]):
    """Step → this process's examples of it. A map-style data set, so that loader processes can share the work."""

    def __init__(self, source: Source, order: Order, settings: TrainingSettings, rank: int, ranks: int) -> None:
        self._source, self._order, self._settings = source, order, settings
        self._rank, self._ranks = rank, ranks

    def __getitem__(self, step: int) -> list[Example]:
        return [self._example(place) for place in self._order.step(step, self._rank, self._ranks)]

    def _example(self, place: Place) -> Example:
        sample = self._source.labels(place.position)
        settings = self._settings
        generator = np.random.default_rng(stable_seed("view", settings.seed, place.epoch, sample.image_id))
        view = random_view(generator, settings.image_size, settings.smallest, settings.flip, settings.colour)
        try:
            pixels = load_pixels(self._source.image(place.position), view)
        except BadImage as error:
            raise Terminal(
                f"image {sample.image_id} of {sample.dataset}: {error}; it was whole when it was ingested: "
                "restore it, or remove the artifact that holds it and run again"
            ) from error
        return Example(pixels, mirrored(sample) if view.mirrored else sample)
