"""The pixels of a training image are those that its view describes, from any kind of file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from pipeline.data.images.opening import BadImage
from pipeline.data.images.training_pixels import load_view, normalised
from pipeline.data.images.training_view import DRAWS, Crop, TrainingView, ViewSettings, training_view, view_sizes
from pipeline.data.images.views import to_pixels, view_size

PAPER = {"image_size": 1333, "shortest": tuple(range(480, 801, 32)), "crop": 0.5}


def picture(width: int = 300, height: int = 200) -> Image.Image:
    """Soft areas of random colours."""
    coarse = np.random.default_rng(0).integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, form)
    return file.getvalue()


def shown(image: Image.Image, view: TrainingView) -> np.ndarray:
    """H x W x 3 levels."""
    return load_view(encoded(image), view).permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("values", [{"image_size": 192}, {"crop": 1.0}, PAPER, PAPER | {"official": True}])
def test_loaded_images_have_the_announced_sizes(values):
    settings = ViewSettings(**values)
    draws = np.random.default_rng(2).random((20, DRAWS))
    sizes = view_sizes(draws, np.full(20, 300), np.full(20, 200), settings)
    data = encoded(picture(), "JPEG")
    for row, (height, width) in zip(draws, sizes.tolist(), strict=True):
        pixels = load_view(data, training_view(row, 300, 200, settings))
        assert pixels.shape == (3, height, width) and pixels.dtype == torch.uint8


@pytest.mark.parametrize("official", [False, True])
def test_the_same_draws_give_the_same_bytes(official):
    settings, data = ViewSettings(**PAPER, official=official), encoded(picture(), "JPEG")
    for row in np.random.default_rng(3).random((6, DRAWS)):
        one, two = (load_view(data, training_view(row, 300, 200, settings)) for _ in range(2))
        assert torch.equal(one, two)


def test_the_size_of_the_file_changes_nothing():
    image = picture(320, 192)
    assert (shown(image, TrainingView(320, 192)) == np.asarray(image)).all()


def test_a_crop_shows_exactly_its_part():
    image = picture(320, 192)
    part = shown(image, TrainingView(64, 32, Crop(100, 50, 64, 32), mirrored=True))
    assert (part[:, ::-1] == np.asarray(image)[50:82, 100:164]).all()


@pytest.mark.parametrize("target", [(192, 128), (640, 416)])
def test_resizing_is_pillows_within_a_level(target):
    image = picture()
    expected = np.asarray(image.resize(target, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(shown(image, TrainingView(*target)) - expected).max() <= 1


@pytest.mark.parametrize("target", [(192, 128), (640, 416)])
def test_colours_change_before_or_after_the_resize_alike(target):
    image = picture()
    enhanced = image.resize(target, Image.Resampling.BILINEAR)
    for enhance, factor in ((ImageEnhance.Brightness, 0.8), (ImageEnhance.Contrast, 1.2), (ImageEnhance.Color, 0.7)):
        enhanced = enhance(enhanced).enhance(factor)
    found = shown(image, TrainingView(*target, brightness=0.8, contrast=1.2, saturation=0.7))
    assert np.abs(found - np.asarray(enhanced).astype(int)).max() <= 4


def test_an_official_view_takes_the_authors_steps():
    image = picture()
    view = TrainingView(
        700, 640, Crop(*(number / 2 for number in (30, 8, 420, 384))), True, 0.8, 1.3, 0.7,
        ("saturation", "brightness", "contrast"), official=True, first_size=(600, 400),
    )  # fmt: skip
    expected = ImageOps.mirror(image)
    for enhance, factor in ((ImageEnhance.Color, 0.7), (ImageEnhance.Brightness, 0.8), (ImageEnhance.Contrast, 1.3)):
        expected = enhance(expected).enhance(factor)
    expected = expected.resize((600, 400), Image.Resampling.BILINEAR).crop((150, 8, 570, 392))
    assert (shown(image, view) == np.asarray(expected.resize((700, 640), Image.Resampling.BILINEAR))).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("official", [False, True])
def test_grey_images_become_rgb(form, official):
    view = TrainingView(96, 64, official=official)
    pixels = load_view(encoded(picture().convert("L"), form), view)
    assert pixels.shape == (3, 64, 96) and torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_files_are_refused(share, official):
    data = encoded(picture(), "JPEG")
    with pytest.raises(BadImage) as caught:
        load_view(data[: int(len(data) * share)], TrainingView(96, 64, official=official))
    assert caught.value.reason == "truncated"


def test_images_are_normalised_by_imagenets_statistics():
    batch = torch.zeros(2, 3, 32, 64, dtype=torch.uint8)
    batch[1] = 255
    found = normalised(batch)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    assert found[0, :, 3, 5].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert found[1, :, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert (batch[1] == 255).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((600, 480), (192, 160)), ((480, 600), (160, 192)), ((1000, 10), (192, 32)), ((9, 9), (192, 192))],
)
def test_sides_of_views_for_prediction_are_multiples_of_the_stride(size, expected):
    assert view_size(*size, longest=192) == expected


def test_pixels_for_prediction_are_normalised_by_the_same_statistics():
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :32] = 255
    pixels = to_pixels(Image.fromarray(half), 64)
    assert pixels[:, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert pixels[:, 0, 63].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 64, 64)


def test_photographs(shared: Path) -> None:
    settings, draws = ViewSettings(**PAPER), np.random.default_rng(4).random((8, DRAWS))
    paths = sorted((shared / "data" / "coco" / "sample2017").glob("*.jpg"))[:8]
    for path, row in zip(paths, draws, strict=True):
        with Image.open(path) as image:
            view = training_view(row, *image.size, settings)
        assert load_view(path.read_bytes(), view).shape == (3, view.height, view.width)
