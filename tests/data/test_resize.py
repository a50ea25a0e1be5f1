"""The fast resizing path gives the same pixels as Pillow, and refuses the same files as the plain path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from pipeline.data.images.folders import UprightRoot, open_folder
from pipeline.data.images.opening import BadImage, read_image
from pipeline.data.images.resize import read_resized, resized


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image with soft areas and hard edges."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8))
    soft = coarse.resize((width, height), Image.Resampling.NEAREST).filter(ImageFilter.GaussianBlur(2))
    soft.paste((255, 0, 30), (width // 3, height // 4, width // 2, height // 2))
    return soft


def assert_pillows(path: Path, width: int, height: int, share: float = 1e-2) -> None:
    image = read_image(path)
    across = image.resize((width, image.height), Image.Resampling.BICUBIC)
    expected = np.asarray(across.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    found = read_resized(path, width, height)
    assert found.shape == (3, height, width)
    apart = np.abs(found.permute(1, 2, 0).numpy() - expected)
    assert apart.max() <= 1 and (apart > 0).mean() < share


@pytest.mark.parametrize(
    ("size", "target"),
    [((640, 480), (384, 384)), ((300, 200), (384, 384)), ((64, 700), (120, 90)), ((384, 384), (384, 384))],
)
def test_pixels_are_pillows(tmp_path, size, target):
    photograph(*size).save(tmp_path / "a.jpg", quality=90)
    assert_pillows(tmp_path / "a.jpg", *target)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("grey.jpg", "L", {}), ("cmyk.jpg", "CMYK", {}), ("progressive.jpg", "RGB", {"progressive": True}),
        ("full.jpg", "RGB", {"subsampling": 0}), ("palette.png", "P", {}), ("alpha.png", "RGBA", {}),
        ("plain.webp", "RGB", {"lossless": True}), ("plain.bmp", "RGB", {}),
    ],
)  # fmt: skip
def test_every_kind_of_file(tmp_path, name, mode, options):
    photograph(200, 160).convert(mode).save(tmp_path / name, **options)
    assert_pillows(tmp_path / name, 96, 96)


def test_an_upright_image_is_turned_before_it_is_resized(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    photograph(200, 160).save(path, exif=exif)
    upright = open_folder(UprightRoot(tmp_path)).place(path.name)
    turned = torch.from_numpy(np.array(read_image(upright)))
    assert turned.shape == (200, 160, 3)
    assert torch.equal(read_resized(upright, 96, 96), resized(turned, 96, 96))


@pytest.mark.parametrize(
    ("size", "target"), [((769, 501), (384, 384)), ((50, 37), (384, 384)), ((5000, 64), (48, 384))]
)
def test_a_level_at_most_where_edges_are_as_hard_as_can_be(size, target):
    width, height = size
    values = (np.random.default_rng(1).random((height, width, 3)) > 0.5).astype(np.uint8) * 255
    across = Image.fromarray(values).resize((target[0], height), Image.Resampling.BICUBIC)
    expected = np.asarray(across.resize(target, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(resized(torch.from_numpy(values), *target).permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.999])
def test_what_the_plain_way_refuses_is_refused(tmp_path, cut):
    path = tmp_path / "a.jpg"
    photograph(300, 200).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(BadImage, match="truncated"):
        read_resized(path, 96, 96)


def test_photographs(shared):
    for path in sorted((shared / "data" / "coco" / "sample2017").glob("*.jpg"))[:6]:
        assert_pillows(path, 384, 384, share=1e-4)
