"""The images of one step of a training run, as the network sees them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.data.images.training_pixels import load_view
from pipeline.data.images.training_view import DRAWS, TrainingView, training_view
from pipeline.training.batches import sample_sequence
from pipeline.training.sample import TrainingSample, viewed
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from storage.errors import FatalError
from storage.shards.reader import DamagedSample
from storage.shards.writer import image_id_of
from storage.stream.order import uniforms


@dataclass(frozen=True)
class StepImage:
    """One image of a step."""

    key: str
    """Its key in the shards."""
    dataset: str
    image_id: int
    tar: str
    epoch: int
    """How often the training had drawn the image before."""
    shown: Shown | None
    """None for a sample that can't be read."""
    damage: str = ""
    """Why it can't be read."""


@dataclass(frozen=True)
class Shown:
    """The view of an image and the labels of what it shows, in pixels of the view."""

    view: TrainingView
    labels: TrainingSample
    data: bytes
    """The image file."""

    def pixels(self) -> Tensor:
        """Returns 3 x H x W bytes. Raises `BadImage` for a file that can't be decoded."""
        return load_view(self.data, self.view)


def step_images(samples: ShardSamples, settings: TrainingSettings, step: int) -> list[StepImage]:
    """Returns the images of a step of all processes together, in the order of the sequence. Steps are counted from 1.

    Raises `FatalError` for a step below 1, and for labels that can't be read.
    """
    if step < 1:
        raise FatalError(f"there is no step {step}: steps are counted from 1")
    drawn = sample_sequence(samples, settings).draw((step - 1) * settings.batch, step * settings.batch)
    numbers = drawn.samples.tolist()
    found = []
    for epoch, number, read in zip(drawn.epochs.tolist(), numbers, samples.read(numbers), strict=True):
        known = samples.samples
        key, tar = known.key(number), known.tars[known.shard(number)]
        dataset = known.datasets[int(known.sets[number])]
        image_id = image_id_of(key, dataset)
        if isinstance(read, DamagedSample):
            found.append(StepImage(key, dataset, image_id, tar, epoch, None, str(read)))
            continue
        labels, data = read
        draws = uniforms(settings.seed, epoch, known.identities[number : number + 1], DRAWS)[0]
        view = training_view(draws, labels.width, labels.height, settings.view)
        found.append(StepImage(key, dataset, image_id, tar, epoch, Shown(view, viewed(labels, view), data)))
    return found
