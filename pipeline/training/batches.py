"""The micro-batches of a training run: which samples they have, and their views in one tensor (docs/shards.md, Batches).

Shapes: B images, H×W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.network import Size
from pipeline.data.images.opening import BadImage
from pipeline.data.images.training_pixels import load_view, normalised
from pipeline.data.images.training_view import DRAWS, STRIDE, training_view, view_sizes
from pipeline.training.packed import Packed
from pipeline.training.sample import TrainingSample, viewed
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import Draws, Task
from storage.errors import FatalError, PipelineError
from storage.shards.reader import DamagedSample
from storage.stream.order import OrderSettings, Samples, uniforms
from storage.stream.sequence import SampleSequence

WINDOW = 128
"""Blocks of 64 images that are shuffled together: enough to find batches of one size, however many sizes views have."""


@dataclass(frozen=True)
class MicroBatch:
    """Images that pass through the network together: in the top left of B×3×H×W bytes, with what the task needs of them."""

    pixels: Tensor
    sizes: tuple[Size, ...]
    """Height and width of each image, in pixels"""
    inputs: Packed
    """What the task made of the images' labels; `inputs.to(device)` returns it."""
    damaged: dict[int, str] = field(default_factory=dict)
    """Samples that were left out, by number, with the reason."""

    def images(self, device: torch.device) -> Tensor:
        """Returns normalised images B×3×H×W with zeros as padding. Pixels go to the device as bytes."""
        images_B3HW = normalised(self.pixels.to(device, non_blocking=True))
        for image_3HW, (height, width) in zip(images_B3HW, self.sizes, strict=True):
            image_3HW[:, height:].zero_()
            image_3HW[:, :height, width:].zero_()
        return images_B3HW

    @property
    def padded_share(self) -> float:
        """The share of the pixels that are padding."""
        shown = sum(height * width for height, width in self.sizes)
        return 1 - shown / (self.pixels.shape[0] * self.pixels.shape[2] * self.pixels.shape[3])

    def pin_memory(self) -> MicroBatch:
        """Moves all tensors to memory that a GPU reads while the processor goes on; torch's loaders call this."""
        return replace(self, pixels=self.pixels.pin_memory(), inputs=self.inputs.pin_memory())


def sample_sequence(samples: ShardSamples, settings: TrainingSettings) -> SampleSequence:
    """Returns the order of a training run: images whose views have similar sizes follow each other in runs."""
    order = OrderSettings(window=WINDOW, run=settings.bucket, sorted_by=settings.view.model_dump_json())
    return SampleSequence(samples.samples, settings.seed, settings.mix.storage(), order, ViewOrder(samples, settings))


class ViewOrder:
    """Sorts samples by the size of their views in an epoch."""

    def __init__(self, samples: ShardSamples, settings: TrainingSettings) -> None:
        self._samples, self._settings = samples.samples, settings

    def __call__(self, epoch: int, chosen: Samples) -> NDArray[np.int64]:
        """Returns keys that are near to each other where heights and widths are."""
        draws = uniforms(self._settings.seed, epoch, self._samples.identities[chosen], DRAWS)
        widths, heights = (side[chosen].astype(np.int64) for side in (self._samples.widths, self._samples.heights))
        sizes = view_sizes(draws, widths, heights, self._settings.view)
        heights, widths = (sizes // STRIDE).astype(np.int64).T
        return snake(heights, widths)


def snake(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns keys by which heights rise, and widths rise and fall in turns, so that neighbours differ in one side only."""
    _, rows = np.unique(heights, return_inverse=True)
    highest = int(widths.max(initial=0)) + 1
    return rows * highest + np.where(rows % 2, highest - 1 - widths, widths)


class MicroBatches(torch.utils.data.Dataset[MicroBatch | PipelineError]):
    """Maps a number to a micro-batch: step s has those from s·M on, M to a step. Loader processes can share the work.

    What a micro-batch holds depends on the settings and its number alone, so any process may prepare it.
    """

    def __init__(
        self, samples: ShardSamples, settings: TrainingSettings, task: Task, origin: Origin, damaged: dict[int, str]
    ) -> None:
        """`damaged`: samples to leave out unread, as an earlier attempt did."""
        self._samples, self._settings, self._task, self._damaged = samples, settings, task, damaged
        self._origin = origin
        self._sequence = sample_sequence(samples, settings)

    def __getitem__(self, number: int) -> MicroBatch | PipelineError:
        """Returns an error in place of raising it: a loader process would wrap it in a traceback."""
        try:
            return self._micro_batch(*divmod(number, self._settings.micro_batches))
        except PipelineError as error:
            return error

    def _micro_batch(self, step: int, part: int) -> MicroBatch:
        """Raises `FatalError` when no sample of it can be read."""
        settings = self._settings
        size = min(settings.micro_batch, settings.batch)
        first = self._origin.place(step, settings.batch) + part * size
        drawn = self._sequence.draw(first, first + size)
        found: list[tuple[Tensor, TrainingSample]] = []
        damaged: dict[int, str] = {}
        drawn_now = zip(drawn.epochs.tolist(), drawn.samples.tolist(), strict=True)
        places = [(epoch, sample) for epoch, sample in drawn_now if sample not in self._damaged]
        for (epoch, sample), read in zip(places, self._samples.read([n for _, n in places]), strict=True):
            if isinstance(read, DamagedSample):
                damaged[sample] = str(read)
                continue
            try:
                found.append(self._view(epoch, sample, *read))
            except BadImage as error:
                damaged[sample] = f"{self._samples.samples.key(sample)}: {error}"
        if not found:
            reason = {**self._damaged, **damaged}[int(drawn.samples[0])]
            raise FatalError(
                f"step {step + 1} has {size} images that go together and none can be read ({reason}); restore the tar, or run "
                "`rlip store verify --repair` and the recipe"
            )
        height, width = (max(pixels.shape[side] for pixels, _ in found) for side in (1, 2))
        images = torch.zeros(len(found), 3, height, width, dtype=torch.uint8).contiguous(
            memory_format=torch.channels_last
        )
        for row, (pixels, _) in enumerate(found):
            images[row, :, : pixels.shape[1], : pixels.shape[2]] = pixels
        samples = [sample for _, sample in found]
        sizes = tuple((one.height, one.width) for one in samples)
        inputs = self._task.inputs(samples, Draws(settings.seed, step, part))
        return MicroBatch(images, sizes, Packed.of(inputs), damaged)

    def _view(self, epoch: int, sample: int, labels: TrainingSample, data: bytes) -> tuple[Tensor, TrainingSample]:
        identities = self._samples.samples.identities[sample : sample + 1]
        draws = uniforms(self._settings.seed, epoch, identities, DRAWS)[0]
        view = training_view(draws, labels.width, labels.height, self._settings.view)
        return load_view(data, view), viewed(labels, view)


@dataclass(frozen=True)
class Origin:
    """Where a training stands in the sequence of its samples: `samples` were used up when `step` steps were done."""

    step: int = 0
    samples: int = 0

    def place(self, step: int, batch: int) -> int:
        """Returns the place of the first sample of a step."""
        return self.samples + (step - self.step) * batch
