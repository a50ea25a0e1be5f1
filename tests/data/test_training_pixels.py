"""The size of a view follows from random numbers and the image's size alone; its pixels are those that it describes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from pydantic import ValidationError

from pipeline.data.images.training_view import DRAWS, Crop, TrainingView, ViewSettings, training_view, training_views
from pipeline.data.images.views import to_pixels, view_size
from pipeline.training.batches import load_view, normalised
from tests.data.toy_sets import encoded

PAPER = {"image_size": 1333, "shortest": tuple(range(480, 801, 32)), "crop": 0.5}


def picture(width: int = 300, height: int = 200) -> Image.Image:
    """Soft areas of random colours."""
    coarse = np.random.default_rng(0).integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def shown(image: Image.Image, view: TrainingView) -> np.ndarray:
    """H x W x 3 levels."""
    return load_view(encoded(image), view).permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("values", [{"image_size": 192}, {"crop": 1.0}, PAPER, PAPER | {"official": True}])
def test_loaded_images_have_the_announced_sizes(values):
    settings = ViewSettings(**values)
    draws = np.random.default_rng(2).random((20, DRAWS))
    sizes = training_views(draws, np.full(20, 300), np.full(20, 200), settings).sizes
    data = encoded(picture(), "JPEG")
    for row, (height, width) in zip(draws, sizes.tolist(), strict=True):
        pixels = load_view(data, training_view(row, 300, 200, settings))
        assert pixels.shape == (3, height, width) and pixels.dtype == torch.uint8


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


def draws(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, DRAWS))


def raw_sizes(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    return generator.integers(60, 2500, count), generator.integers(60, 2500, count)


def views(count: int, settings: ViewSettings) -> list[tuple[int, int, TrainingView]]:
    """Raw width, raw height and view of each image."""
    sizes = zip(*(side.tolist() for side in raw_sizes(count)), strict=True)
    return [(w, h, training_view(row, w, h, settings)) for row, (w, h) in zip(draws(count), sizes, strict=True)]


def detr_size(width: int, height: int, size: int, max_size: int | None = None) -> tuple[int, int]:
    """Width and height by the rule in DETR's datasets/transforms.py."""
    if max_size is not None:
        shorter, longer = float(min(width, height)), float(max(width, height))
        if longer / shorter * size > max_size:
            size = round(max_size * shorter / longer)
    if (width <= height and width == size) or (height <= width and height == size):
        return width, height
    if width < height:
        return size, int(size * height / width)
    return int(size * width / height), size


@pytest.mark.parametrize("values", [{}, {"smallest": 0.5, "crop": 0.5}, PAPER, PAPER | {"official": True}])
def test_sizes_of_many_images_are_those_of_each(values):
    settings = ViewSettings(**values)
    widths, heights = raw_sizes(200)
    sizes = training_views(draws(200), widths, heights, settings).sizes
    assert sizes.dtype == np.int32
    assert sizes.tolist() == [[view.height, view.width] for *_, view in views(200, settings)]


def test_official_sizes_of_whole_images_are_detrs():
    found: set[int] = set()
    for width, height, view in views(2000, ViewSettings(**PAPER | {"crop": 0.0, "official": True})):
        sizes = {size: detr_size(width, height, size, 1333) for size in PAPER["shortest"]}
        assert (view.width, view.height) in sizes.values() and view.crop is None
        found |= {size for size in sizes if sizes[size] == (view.width, view.height)}
    assert found == set(PAPER["shortest"])


def test_an_official_view_of_a_sliver_is_not_cropped_out_of_a_giant():
    settings = ViewSettings(**PAPER | {"crop": 1.0, "official": True})
    assert training_view(np.full(DRAWS, 0.5), 8, 20_000, settings).crop is None
    assert training_view(np.full(DRAWS, 0.5), 600, 800, settings).crop is not None


def test_official_crops_are_detrs():
    shorter: set[int] = set()
    for width, height, view in views(2000, ViewSettings(**PAPER | {"crop": 1.0, "official": True})):
        first = view.first_size
        shorter.add(min(first))
        assert first == detr_size(width, height, min(first))
        ratio = np.array(first * 2) / [width, height, width, height]
        pixels = np.array(view.crop) * ratio
        assert pixels == pytest.approx(np.rint(pixels), abs=1e-6)
        left, top, *part = np.rint(pixels).astype(int).tolist()
        assert all(384 <= side <= min(whole, 600) for side, whole in zip(part, first, strict=True))
        assert left >= 0 and top >= 0 and left + part[0] <= first[0] and top + part[1] <= first[1]
        assert (view.width, view.height) in {detr_size(*part, size, 1333) for size in PAPER["shortest"]}
    assert shorter == {400, 500, 600}


def test_official_crops_reach_every_side_and_corner():
    settings = ViewSettings(**PAPER | {"crop": 1.0, "official": True})
    crops = [training_view(row, 500, 500, settings) for row in draws(6_000)]
    boxes = [np.rint(np.array(view.crop) * view.first_size[0] / 500) for view in crops if view.first_size[0] == 400]
    assert {int(box[2]) for box in boxes} == {int(box[3]) for box in boxes} == set(range(384, 401))
    assert {int(box[0]) for box in boxes if box[2] == 390} == set(range(11))


def test_official_colours_change_in_every_order_and_ours_in_one():
    assert len({view.order for *_, view in views(200, ViewSettings(**PAPER | {"official": True}))}) == 6
    assert len({view.order for *_, view in views(200, ViewSettings(**PAPER))}) == 1


@pytest.mark.parametrize("values", [{"crop": 0.5}, PAPER])
def test_sides_are_multiples_of_32_and_nearly_keep_the_aspect(values):
    for width, height, view in views(1000, ViewSettings(**values)):
        assert view.width % 32 == view.height % 32 == 0 and min(view.width, view.height) >= 32
        shown = (view.crop.width, view.crop.height) if view.crop else (width, height)
        sides = [(view.width, shown[0]), (view.height, shown[1])]
        # One scale explains both sides, once the rounding to 32 pixels and that of a crop to raw pixels are undone.
        at_least = max((side - 16) / (raw + 0.5) if side > 32 else 0 for side, raw in sides)
        assert at_least <= min((side + 16) / (raw - 0.5) for side, raw in sides)


def test_crops_are_whole_pixels_inside_the_image():
    for width, height, view in views(1000, ViewSettings(**PAPER | {"crop": 1.0})):
        left, top, part_width, part_height = view.crop
        assert all(number == int(number) for number in view.crop)
        assert left >= 0 and top >= 0 and part_width >= 1 and part_height >= 1
        assert left + part_width <= width and top + part_height <= height


def test_the_longest_side_is_as_set():
    for _, _, view in views(100, ViewSettings(image_size=192)):
        assert max(view.width, view.height) == 192
    longest = {max(view.width, view.height) for *_, view in views(2000, ViewSettings(image_size=640, smallest=0.5))}
    assert longest == set(range(320, 641, 32))


def test_the_shorter_side_is_drawn_and_the_longest_limited():
    settings = ViewSettings(image_size=640, shortest=(320, 480))
    square, long = (training_views(draws(50), np.full(50, w), np.full(50, 500), settings).sizes for w in (500, 2000))
    assert {tuple(size) for size in square.tolist()} == {(320, 320), (480, 480)}
    assert {tuple(size) for size in long.tolist()} == {(160, 640)}


def test_probabilities_and_strengths():
    found = [view for *_, view in views(4000, ViewSettings(crop=0.25, flip=0.7, colour=0.3))]
    assert np.mean([view.crop is not None for view in found]) == pytest.approx(0.25, abs=0.03)
    assert np.mean([view.mirrored for view in found]) == pytest.approx(0.7, abs=0.03)
    for factors in zip(*((view.brightness, view.contrast, view.saturation) for view in found), strict=True):
        assert 0.7 <= min(factors) < 0.71 and 1.29 < max(factors) <= 1.3


@pytest.mark.parametrize(
    ("values", "named"), [({"crop": 1.5}, "crop"), ({"shortest": [8]}, "shortest"), ({"official": True}, "shortest")]
)
def test_settings_that_make_no_sense_are_refused_by_name(values, named):
    with pytest.raises(ValidationError, match=named):
        ViewSettings(**values)
