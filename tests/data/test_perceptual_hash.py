"""Copies of an image have near hashes, different images have not, and images that show nothing have none."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.data.images import perceptual_hash as module
from pipeline.data.images.opening import probe_bytes
from pipeline.data.images.perceptual_hash import DEFAULT_DISTANCE, near_duplicates, perceptual_hash, probe_and_hash
from tests.data.toy_sets import encoded


def picture(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Soft blobs of light and shade, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def bits_apart(one: bytes, other: bytes) -> int:
    a, b = perceptual_hash(one), perceptual_hash(other)
    assert a is not None and b is not None
    return (a ^ b).bit_count()


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "stronger compression": lambda image: encoded(image, "JPEG", quality=50),
    "PNG": lambda image: encoded(image, "PNG"),
    "PNG with transparency": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "WEBP": lambda image: encoded(image, "WEBP", quality=60),
    "half the size": lambda image: encoded(image.reduce(2), "JPEG", quality=85),
    "a slight crop": lambda image: encoded(ImageOps.crop(image, 1), "JPEG", quality=85),
    "grey": lambda image: encoded(image.convert("L"), "JPEG", quality=85),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_a_near_duplicate(copy):
    image = picture(1)
    assert bits_apart(encoded(image, "JPEG", quality=92), COPIES[copy](image)) <= DEFAULT_DISTANCE


def test_copies_of_real_pictures_are_near_duplicates(shared):
    for path in sorted((shared / "data/coco/sample2017").glob("*.jpg"))[:5]:
        with Image.open(path) as image:
            for copied in COPIES.values():
                assert bits_apart(path.read_bytes(), copied(image.convert("RGB"))) <= DEFAULT_DISTANCE


def test_different_real_pictures_are_far_apart(shared):
    paths = sorted((shared / "data/coco/sample2017").glob("*.jpg"))
    found = [perceptual_hash(path.read_bytes()) for path in paths]
    hashes = np.array([each for each in found if each is not None], np.uint64)
    assert len(hashes) == len(paths)  # every real image has structure
    near = near_duplicates(hashes, hashes, 2 * DEFAULT_DISTANCE)
    assert near == [(i, i, 0) for i in range(len(paths))]


PLAIN = {
    "flat": Image.new("RGB", (320, 240), (90, 120, 60)),
    "gradient": Image.linear_gradient("L").resize((320, 240)),
    "horizon": Image.fromarray(np.repeat(np.uint8([[220], [90]]), [150, 90], 0)).resize((320, 240)),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_picture_without_structure_has_no_hash(kind):
    assert perceptual_hash(encoded(PLAIN[kind], "JPEG")) is None


def test_a_hash_is_a_64_bit_number_that_a_table_can_hold():
    hashes = [perceptual_hash(encoded(picture(seed), "JPEG")) for seed in range(8)]
    assert all(each is not None and 0 <= each < 2**64 for each in hashes)
    assert any(each is not None and each >= 2**63 for each in hashes)


def test_one_decoding_gives_what_probing_gives():
    data = encoded(picture(2, 500, 333), "JPEG")
    probe, phash = probe_and_hash(data)
    assert probe == probe_bytes(data)
    assert phash == perceptual_hash(data) is not None


def test_near_duplicates_in_chunks_are_those_of_a_loop(monkeypatch):
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 20, np.uint64)
    others = np.concatenate([hashes[5:12] ^ np.uint64(2**63 + 1), random.integers(0, 2**64, 30, np.uint64), hashes[:1]])
    expected = [
        (i, j, (int(a) ^ int(b)).bit_count())
        for i, a in enumerate(hashes)
        for j, b in enumerate(others)
        if (int(a) ^ int(b)).bit_count() <= 20
    ]
    assert {bits for _, _, bits in expected} >= {0, 2}
    whole = near_duplicates(hashes, others, 20)
    monkeypatch.setattr(module, "_PAIRS_AT_A_TIME", 100)
    assert near_duplicates(hashes, others, 20) == whole == expected
    assert near_duplicates(hashes, others[:0], 64) == near_duplicates(hashes[:0], others, 64) == []
