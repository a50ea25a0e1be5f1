"""The micro-batches of a training run: which samples they have, and their views in one tensor (docs/shards.md).

Shapes: B images, H×W pixels.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from models.network import Size
from pipeline.data.images.opening import BadImage, decode_image
from pipeline.data.images.training_view import DRAWS, STRIDE, WINDOW, TrainingView, snake, training_view, training_views
from pipeline.data.images.views import DEVIATION, MEAN
from pipeline.training.sample import TrainingSample, viewed
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples
from pipeline.training.task import Draws, Task
from storage.errors import FatalError, PipelineError
from storage.shards.reader import DamagedSample
from storage.shards.sample_map import SampleMap
from storage.shards.writer import image_id_of
from storage.stream.order import Drawn, OrderSettings, Samples, uniforms
from storage.stream.sequence import SampleSequence


@dataclass(frozen=True)
class MicroBatch:
    """Images that pass through the network together, and what the task needs of them."""

    pixels: Tensor
    """B×3×H×W bytes, with each image in the top left"""
    sizes: tuple[Size, ...]
    """Height and width of each image, in pixels"""
    inputs: Packed
    """What the task prepared from the images' labels; `inputs.to(device)` returns it."""
    damaged: dict[int, str] = field(default_factory=dict)
    """Samples that were skipped, by number, with the reason."""

    def images(self, device: torch.device) -> Tensor:
        """Returns normalised images B×3×H×W with zeros as padding. Pixels go to the device as bytes."""
        images_B3HW = normalised(self.pixels.to(device, non_blocking=True))
        for image_3HW, (height, width) in zip(images_B3HW, self.sizes, strict=True):
            image_3HW[:, height:].zero_()
            image_3HW[:, :height, width:].zero_()
        return images_B3HW

    @property
    def shown_pixels(self) -> int:
        """The number of pixels that are not padding."""
        return sum(height * width for height, width in self.sizes)

    def pin_memory(self) -> MicroBatch:
        """Moves all tensors to pinned memory, from which a GPU copies in the background; torch's loaders call this."""
        return replace(self, pixels=self.pixels.pin_memory(), inputs=self.inputs.pin_memory())


def sample_sequence(samples: ShardSamples, settings: TrainingSettings) -> SampleSequence:
    """Returns the order of a training run: images whose views have similar sizes follow each other in runs."""
    order = OrderSettings(window=WINDOW, run=settings.bucket, sorted_by=settings.view.model_dump_json())
    by_view = partial(_view_order, samples.samples, settings)
    return SampleSequence(samples.samples, settings.seed, settings.mix, order, by_view)


def _view_order(samples: SampleMap, settings: TrainingSettings, epoch: int, chosen: Samples) -> NDArray[np.int64]:
    """Returns sort keys that are close where the views' heights and widths in an epoch are close."""
    draws = uniforms(settings.seed, epoch, samples.identities[chosen], DRAWS)
    widths, heights = (side[chosen].astype(np.int64) for side in (samples.widths, samples.heights))
    sizes = training_views(draws, widths, heights, settings.view).sizes
    heights, widths = (sizes // STRIDE).astype(np.int64).T
    return snake(heights, widths)


class MicroBatches(torch.utils.data.Dataset[MicroBatch | PipelineError]):
    """Maps a number to a micro-batch: step s has the M micro-batches from s·M on. Loader processes can share the work.

    What a micro-batch holds depends on the settings and its number alone, so any process may prepare it.
    """

    def __init__(self, samples: ShardSamples, settings: TrainingSettings, task: Task, damaged: dict[int, str]) -> None:
        """`damaged`: samples to skip unread, as an earlier attempt did."""
        self._samples, self._settings, self._task, self._damaged = samples, settings, task, damaged
        self._sequence = sample_sequence(samples, settings)

    def __getitem__(self, number: int) -> MicroBatch | PipelineError:
        """Returns an error instead of raising it: a loader process would wrap it in a traceback."""
        try:
            return self._micro_batch(*divmod(number, self._settings.micro_batches))
        except PipelineError as error:
            return error

    def _micro_batch(self, step: int, part: int) -> MicroBatch:
        """Raises `FatalError` when none of its samples can be read."""
        settings = self._settings
        size = min(settings.micro_batch, settings.batch)
        first = step * settings.batch + part * size
        drawn = self._sequence.draw(first, first + size)
        loaded: list[tuple[Tensor, TrainingSample]] = []
        damaged: dict[int, str] = {}
        for _, sample, shown in _shown(self._samples, settings, drawn, without=self._damaged):
            if isinstance(shown, DamagedSample):
                damaged[sample] = str(shown)
                continue
            try:
                loaded.append((shown.pixels(), shown.labels))
            except BadImage as error:
                damaged[sample] = f"{self._samples.samples.key(sample)}: {error}"
        if not loaded:
            reason = {**self._damaged, **damaged}[int(drawn.samples[0])]
            raise FatalError(
                f"step {step + 1} has {size} images that go together, none of which can be read ({reason}); restore "
                "the tar, or run `rlip store verify --repair` and the recipe"
            )
        height, width = (max(pixels.shape[side] for pixels, _ in loaded) for side in (1, 2))
        images = torch.zeros(len(loaded), 3, height, width, dtype=torch.uint8).contiguous(
            memory_format=torch.channels_last
        )
        for row, (pixels, _) in enumerate(loaded):
            images[row, :, : pixels.shape[1], : pixels.shape[2]] = pixels
        samples = [sample for _, sample in loaded]
        sizes = tuple((one.height, one.width) for one in samples)
        inputs = self._task.inputs(samples, Draws(settings.seed, step, part))
        return MicroBatch(images, sizes, Packed.of(inputs), damaged)


@dataclass(frozen=True)
class StepImage:
    """One image of a step."""

    key: str
    """Its key in the shards."""
    dataset: str
    image_id: int
    tar: str
    epoch: int
    """How often the training run had drawn the image before."""
    shown: Shown | None = None
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


def _shown(
    samples: ShardSamples, settings: TrainingSettings, drawn: Drawn, without: Collection[int] = ()
) -> Iterator[tuple[int, int, Shown | DamagedSample]]:
    """Yields the epoch and number of each sample that was drawn, and its view or the damage. They are read together."""
    places = [(epoch, n) for epoch, n in zip(*(each.tolist() for each in drawn), strict=True) if n not in without]
    for (epoch, number), read in zip(places, samples.read([number for _, number in places]), strict=True):
        if isinstance(read, DamagedSample):
            yield epoch, number, read
            continue
        labels, data = read
        draws = uniforms(settings.seed, epoch, samples.samples.identities[number : number + 1], DRAWS)[0]
        view = training_view(draws, labels.width, labels.height, settings.view)
        yield epoch, number, Shown(view, viewed(labels, view), data)


def step_images(samples: ShardSamples, settings: TrainingSettings, step: int) -> list[StepImage]:
    """Returns the images of a step of all processes together, in the order of the sequence. Steps are counted from 1.

    Raises `FatalError` for labels that can't be read.
    """
    drawn = sample_sequence(samples, settings).draw((step - 1) * settings.batch, step * settings.batch)
    images = []
    for epoch, number, shown in _shown(samples, settings, drawn):
        known = samples.samples
        key, tar = known.key(number), known.tars[known.shard(number)]
        dataset = known.datasets[int(known.sets[number])]
        found = {"damage": str(shown)} if isinstance(shown, DamagedSample) else {"shown": shown}
        images.append(StepImage(key, dataset, image_id_of(key, dataset), tar, epoch, **found))
    return images


ALIGNMENT = 16
"""Bytes; a tensor of any type may start at a multiple of this."""
Place = tuple[int, torch.dtype, tuple[int, ...]]
"""Where a tensor lies in the block: first byte, type and shape."""


@dataclass(frozen=True)
class Packed:
    """A value whose tensors lie in one block of bytes, so that they go to a device in one copy.

    Only values that this program itself packed may be unpacked.
    """

    block: Tensor
    """Bytes"""
    rest: bytes
    """The value without its tensors, pickled."""

    @classmethod
    def of(cls, value: object) -> Packed:
        """Packs any value that can be pickled. Its tensors must be on the CPU."""
        rest = io.BytesIO()
        packer = _Packer(rest)
        packer.dump(value)
        block = torch.zeros(packer.size, dtype=torch.uint8)
        for (first, _, _), tensor in zip(packer.places, packer.tensors, strict=True):
            block[first : first + tensor.nbytes] = tensor.contiguous().reshape(-1).view(torch.uint8)
        return cls(block, rest.getvalue())

    def to(self, device: torch.device) -> Any:
        """Returns the value with its tensors on a device, as views of the block's copy there."""
        return _Unpacker(self.rest, self.block.to(device, non_blocking=True)).load()

    def pin_memory(self) -> Packed:
        """Moves the block to pinned memory, from which a GPU copies in the background."""
        return Packed(self.block.pin_memory(), self.rest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Goes to another process by value: the handshake to share memory takes longer than this copy."""
        return _received, (self.block.numpy(), self.rest)


def _received(block: Any, rest: bytes) -> Packed:
    return Packed(torch.from_numpy(block), rest)


class _Packer(pickle.Pickler):
    """Pickles a value with the places of its tensors instead of the tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.size = 0
        self.places: list[Place] = []
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: object) -> Place | None:
        """Returns the place of a tensor, and None for anything else."""
        if not isinstance(value, Tensor):
            return None
        place = (self.size, value.dtype, tuple(value.shape))
        self.places.append(place)
        self.tensors.append(value)
        self.size += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        return place


class _Unpacker(pickle.Unpickler):
    def __init__(self, rest: bytes, block: Tensor) -> None:
        super().__init__(io.BytesIO(rest))
        self._block = block

    def persistent_load(self, place: Place) -> Tensor:
        """Returns the tensor of a place."""
        first, dtype, shape = place
        last = first + dtype.itemsize * torch.Size(shape).numel()
        return self._block[first:last].view(dtype).view(shape)


_ADJUST = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
}


def load_view(data: bytes, view: TrainingView) -> Tensor:
    """Decodes an image to 3 x H x W bytes as the view shows it. In memory the colours are last. Raises `BadImage`."""
    image = decode_image(data)
    return _official(image, view) if view.official else _quick(image, view)


def normalised(images_B3HW: Tensor) -> Tensor:
    """Converts bytes to float32, normalised by ImageNet's mean and standard deviation, with colours last in memory."""
    scale, shift = _scale_and_shift(images_B3HW.device)
    return images_B3HW.to(torch.float32, memory_format=torch.channels_last).mul_(scale).sub_(shift)


@cache
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    scale, shift = (torch.from_numpy(x).view(3, 1, 1) for x in (1 / (255 * DEVIATION), MEAN / DEVIATION))
    return scale.to(device), shift.to(device)


def _quick(image: Image.Image, view: TrainingView) -> Tensor:
    """Crops and resizes once, and changes colours where there are fewer pixels: before or after the resize."""
    if view.crop is not None:
        left, top, width, height = (round(number) for number in view.crop)
        image = image.crop((left, top, left + width, top + height))
    if image.width * image.height <= view.width * view.height:
        return _resized(_pixels(_altered(image, view)), view)
    small_3HW = _resized(_pixels(image), view)
    return _pixels(_altered(Image.fromarray(small_3HW.permute(1, 2, 0).numpy()), view))


def _official(image: Image.Image, view: TrainingView) -> Tensor:
    """Mirrors, changes colours, then resizes, or resizes, crops and resizes, in Pillow, as the authors do."""
    raw_width, raw_height = image.size
    image = _altered(image, view)
    if view.crop is not None and view.first_size is not None:
        width, height = view.first_size
        across, down = width / raw_width, height / raw_height
        left, part_width = round(view.crop.left * across), round(view.crop.width * across)
        top, part_height = round(view.crop.top * down), round(view.crop.height * down)
        if view.mirrored:
            left = width - left - part_width
        image = functional.resize(image, [height, width])
        image = functional.crop(image, top, left, part_height, part_width)
    return _pixels(functional.resize(image, [view.height, view.width]))


def _altered(image: Image.Image, view: TrainingView) -> Image.Image:
    """Mirrors and changes colours as the view says."""
    if view.mirrored:
        image = functional.horizontal_flip(image)
    factors = {"brightness": view.brightness, "contrast": view.contrast, "saturation": view.saturation}
    for colour in view.order:
        if factors[colour] != 1.0:
            image = _ADJUST[colour](image, factors[colour])
    return image


def _resized(pixels_3HW: Tensor, view: TrainingView) -> Tensor:
    resized: Tensor = functional.resize(pixels_3HW, [view.height, view.width], antialias=True)
    return resized


def _pixels(image: Image.Image) -> Tensor:
    """Returns 3 x H x W bytes."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
