"""Converts whole images to network input: resizing and normalisation. Shapes: H×W pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.images.training_view import STRIDE

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def to_pixels(image: Image.Image, longest: int) -> torch.Tensor:
    """Converts an RGB image to 3×H×W, normalised by ImageNet's mean and standard deviation.

    `longest`: length of the longest side in pixels.
    """
    size = view_size(image.width, image.height, longest)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    values: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(255)
    return torch.from_numpy(((values - MEAN) / DEVIATION).transpose(2, 0, 1).copy())


def passes(pixels: Sequence[torch.Tensor], most: int) -> Iterator[list[int]]:
    """Yields the positions of images of one size, up to `most` at a time, which can share a pass without padding."""
    by_shape: dict[torch.Size, list[int]] = {}
    for place, tensor in enumerate(pixels):
        by_shape.setdefault(tensor.shape, []).append(place)
    for places in by_shape.values():
        yield from (places[first : first + most] for first in range(0, len(places), most))


def view_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height for a longest side of `longest`, both rounded to multiples of 32 (at least 32)."""
    scale = longest / max(width, height)
    rounded_width, rounded_height = (max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (width, height))
    return rounded_width, rounded_height
