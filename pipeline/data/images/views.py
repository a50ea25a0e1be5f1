"""Converts image bytes to network input: resizing, mirroring, colour jitter, normalisation.

Shapes: B images, H×W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from pipeline.data.images.opening import decode_image

STRIDE = 32
"""Sides are multiples of this, so that batches have few distinct sizes and no feature map cell is partly padding."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class View:
    """How an image is transformed for training."""

    size: int
    """Length of the longest side in pixels."""
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def random_view(generator: np.random.Generator, size: int, smallest: float, flip: float, colour: float) -> View:
    """Draws a random view for one image of one epoch."""
    scale = generator.uniform(smallest, 1.0)
    mirrored = bool(generator.random() < flip)
    brightness, contrast, saturation = (float(x) for x in generator.uniform(1 - colour, 1 + colour, 3))
    return View(round(size * scale), mirrored, brightness, contrast, saturation)


def load_pixels(data: bytes, view: View) -> torch.Tensor:
    """Decodes an image to 3×H×W, normalised by ImageNet's mean and standard deviation. Raises `BadImage`."""
    return to_pixels(decode_image(data), view)


def to_pixels(image: Image.Image, view: View) -> torch.Tensor:
    """Like `load_pixels`, for a decoded RGB image."""
    size = view_size(image.width, image.height, view.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance, factor in (
        (ImageEnhance.Brightness, view.brightness),
        (ImageEnhance.Contrast, view.contrast),
        (ImageEnhance.Color, view.saturation),
    ):
        if factor != 1.0:
            image = enhance(image).enhance(factor)
    values: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(255)
    return torch.from_numpy(((values - MEAN) / DEVIATION).transpose(2, 0, 1).copy())


def view_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height for a longest side of `longest`, both rounded to multiples of 32 (at least 32)."""
    scale = longest / max(width, height)
    return tuple(max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (width, height))  # type: ignore[return-value]


def padded_batch(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Places images in the top left of B×3×H×W zeros. Also returns the B×H×W padding mask, True outside the image."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width).contiguous(memory_format=torch.channels_last)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        batch[row, :, : image.shape[1], : image.shape[2]] = image
        padding[row, : image.shape[1], : image.shape[2]] = False
    return batch, padding
