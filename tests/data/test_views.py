"""Tests the conversion of images to network input."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.images.views import View, padded_batch, random_view, to_pixels, view_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [((600, 480), (192, 160)), ((480, 600), (160, 192)), ((1000, 10), (192, 32)), ((9, 9), (192, 192))],
)
def test_sides_are_multiples_of_the_stride(size, expected):
    assert view_size(*size, longest=192) == expected


def test_mirroring_mirrors_and_pixels_are_normalised():
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :32] = 255
    image = Image.fromarray(half)
    plain, flipped = to_pixels(image, View(64)), to_pixels(image, View(64, mirrored=True))
    assert torch.equal(flipped, plain.flip(2))
    assert plain[:, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert plain.dtype == torch.float32 and plain.shape == (3, 64, 64)


def test_views_are_drawn_from_the_generator_alone():
    views = [random_view(np.random.default_rng(5), 640, 0.5, 0.5, 0.4) for _ in range(2)]
    assert views[0] == views[1]
    assert 320 <= views[0].size <= 640
    assert random_view(np.random.default_rng(5), 640, 1.0, 0.0, 0.0) == View(640)


def test_batches_are_padded_right_and_below():
    batch, padding = padded_batch([torch.ones(3, 32, 64), torch.ones(3, 64, 32)])
    assert batch.shape == (2, 3, 64, 64)
    assert (batch[:, 0] == (~padding).float()).all()
    assert not padding[0, :32, :].any() and padding[0, 32:, :].all()
