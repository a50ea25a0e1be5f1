"""Reads a training image as its view shows it, and normalises batches of such images.

Pillow decodes and colours: its colour operations take a third of torchvision's time. Torchvision resizes, in a fifth of
Pillow's time. Legend: B images, H x W pixels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from pipeline.data.images.opening import decode_image
from pipeline.data.images.training_view import TrainingView
from pipeline.data.images.views import DEVIATION, MEAN

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
    """Mirrors and changes colours, as far as the view says."""
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
