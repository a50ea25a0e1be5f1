"""Tests the conversion of images to network input."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.images.views import to_pixels, view_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [((600, 480), (192, 160)), ((480, 600), (160, 192)), ((1000, 10), (192, 32)), ((9, 9), (192, 192))],
)
def test_sides_are_multiples_of_the_stride(size, expected):
    assert view_size(*size, longest=192) == expected


def test_pixels_are_normalised():
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :32] = 255
    pixels = to_pixels(Image.fromarray(half), 64)
    assert pixels[:, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert pixels[:, 0, 63].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 64, 64)
