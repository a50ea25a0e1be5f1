"""Prefetching yields the same images in the same order as sequential reading, and holds a bounded number of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images.opening import BadImage, ImageLimits, read_ahead, read_image
from pipeline.data.images.refs import ImageRef


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Thirty noise images; the fifth is truncated, the ninth is missing."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(30)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    paths[4].write_bytes(paths[4].read_bytes()[:200])
    paths[8].unlink()
    return paths


def test_images_come_in_order_and_bad_ones_in_their_turn(pictures: list[Path]) -> None:
    found = list(read_ahead(pictures, read_image, threads=3, ahead=7))
    assert len(found) == 30
    for path, image in zip(pictures, found, strict=True):
        if isinstance(image, BadImage):
            with pytest.raises(BadImage, match=image.reason):
                read_image(path)
        else:
            assert image.tobytes() == read_image(path).tobytes()
    assert [n for n, image in enumerate(found) if isinstance(image, BadImage)] == [4, 8]


def test_no_more_than_asked_for_is_read_ahead(pictures: list[Path]) -> None:
    taken = 0

    def watched() -> Iterator[Path]:
        nonlocal taken
        for path in pictures:
            taken += 1
            yield path

    ahead = read_ahead(watched(), read_image, ahead=5)
    assert taken == 0
    for used in range(1, 11):
        next(ahead)
        assert taken == used + 5
    ahead.close()
    assert not any(thread.name.startswith("images") for thread in threading.enumerate())


def test_reading_is_done_on_the_threads(pictures: list[Path]) -> None:
    names = set()

    def size_of(place: ImageRef, limits: ImageLimits) -> tuple[int, int]:
        names.add(threading.current_thread().name.split("_")[0])
        return read_image(place, limits).size

    assert list(read_ahead(pictures[:4], size_of)) == [(60, 40)] * 4
    assert names == {"images"}


def test_what_goes_wrong_on_a_thread_comes_out(pictures: list[Path]) -> None:
    def fail(place: ImageRef, limits: ImageLimits) -> Image.Image:
        raise MemoryError("too much")

    with pytest.raises(MemoryError, match="too much"):
        list(read_ahead(pictures, fail))
