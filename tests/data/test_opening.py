"""Which images are refused and why, that accepted ones decode to the right RGB, and reading ahead keeps their order."""

import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydantic import ValidationError

from pipeline.data.images.opening import (
    BadImage,
    ImageLimits,
    decode_image,
    fingerprint,
    probe,
    probe_bytes,
    read_ahead,
    read_image,
)
from pipeline.data.images.refs import ImageRef
from tests.data.toy_sets import encoded

RED = (200, 30, 40)


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8))


def refused(data: bytes, limits: ImageLimits | None = None) -> BadImage:
    limits = limits or ImageLimits()
    with pytest.raises(BadImage) as decoding:
        decode_image(data, limits)
    with pytest.raises(BadImage) as probing:
        probe_bytes(data, limits)
    assert probing.value.reason == decoding.value.reason
    return decoding.value


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_content_decides_the_format_not_the_name(tmp_path, form):
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(noise(), form))
    assert probe(path)[:3] == (64, 48, form)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (64, 48))


@pytest.mark.parametrize("options", [{"form": "JPEG"}, {"form": "JPEG", "progressive": True}, {"form": "PNG"}])
def test_a_torn_file_is_truncated(options):
    data = encoded(noise(300, 200), **options)
    for part in (0.05, 0.97):
        assert refused(data[: int(len(data) * part)]).reason == "truncated"


def test_the_allow_list_can_be_narrowed_and_the_pixel_cap_stays_below_pillows():
    bad = refused(encoded(noise(), "BMP"), ImageLimits(formats=("JPEG",)))
    assert (bad.reason, bad.value) == ("format not allowed", "BMP")
    with pytest.raises(ValidationError, match="max_pixels"):
        ImageLimits(max_pixels=10**9)


def test_sizes_out_of_bounds(tmp_path):
    assert refused(encoded(Image.new("RGB", (1, 1)))).reason == "too small"
    assert refused(encoded(Image.new("RGB", (40, 30))), ImageLimits(min_side=31)).reason == "too small"
    wide = refused(encoded(Image.new("L", (30_000, 10))))
    assert wide.reason == "too large" and "30000x10" in wide.value
    assert refused(encoded(noise()), ImageLimits(max_pixels=3000)).reason == "too large"
    path = tmp_path / "heavy.png"
    path.write_bytes(encoded(noise()))
    with pytest.raises(BadImage, match="too large: more than 100 bytes"):
        read_image(path, ImageLimits(max_bytes=100))


@pytest.mark.parametrize("size", [(25_000, 10), (6, 40)])
def test_what_a_recipes_wider_limits_accept_is_read_after_ingest(tmp_path, size):
    path = tmp_path / "wide.png"
    path.write_bytes(encoded(Image.new("L", size)))
    assert (
        probe_bytes(path.read_bytes(), ImageLimits(max_side=30_000, min_side=2)).upright_size
        == read_image(path).size
        == size
    )


def test_a_warning_in_a_loop_over_images_is_shown_once():
    data = encoded(noise())
    with warnings.catch_warnings(action="default", record=True) as shown:
        for _ in range(2):
            decode_image(data)
            warnings.warn("images are read as stored", stacklevel=1)
    assert len(shown) == 1


def test_cmyk_comes_out_in_its_colours():
    plain = Image.new("RGB", (32, 32), RED)
    colour = decode_image(encoded(plain.convert("CMYK"), "JPEG", quality=100)).getpixel((5, 5))
    assert np.abs(np.subtract(colour, RED)).max() <= 6


WHITE = (255, 255, 255)
RED_IMAGE = Image.new("RGB", (16, 16), RED)


@pytest.mark.parametrize("image, options, colour", [
    (Image.new("L", (16, 16), 255), {}, WHITE),
    (Image.new("1", (16, 16), 1), {}, WHITE),
    (RED_IMAGE.convert("P", palette=Image.Palette.ADAPTIVE), {}, RED),
    (RED_IMAGE.convert("P", palette=Image.Palette.ADAPTIVE), {"transparency": 0}, WHITE),
    (RED_IMAGE, {"transparency": RED}, WHITE),
    (Image.new("RGBA", (16, 16), (*RED, 255)), {}, RED),
    (Image.new("RGBA", (16, 16), (*RED, 0)), {}, WHITE),
    (Image.new("RGBA", (16, 16), (*RED, 0)), {"form": "WEBP", "lossless": True}, WHITE),
    (Image.new("LA", (16, 16), (0, 0)), {}, WHITE),
])  # fmt: skip
def test_every_mode_becomes_rgb_and_transparency_white(image, options, colour):
    assert decode_image(encoded(image, **options)).getpixel((3, 3)) == colour


def test_sixteen_bits_keep_their_upper_byte():
    deep = np.full((16, 16), 0x80FF, dtype=np.uint16)
    deep[0, 0] = 0xFFFF
    found = decode_image(encoded(Image.fromarray(deep)))
    assert found.getpixel((5, 5)) == (128, 128, 128)
    assert found.getpixel((0, 0)) == (255, 255, 255)


_TAGS = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 16, 279: 384}
OF_12_BITS = b"".join((
    struct.pack("<2sHIH", b"II", 42, 8, len(_TAGS)), *(struct.pack("<HHII", tag, 3, 1, _TAGS[tag]) for tag in _TAGS),
    bytes(4 + 384),
))  # fmt: skip


@pytest.mark.parametrize("verify", ["decode", "header"])
@pytest.mark.parametrize("data", [
    *(encoded(Image.fromarray(np.ones((16, 16), kind)), "TIFF") for kind in (np.float32, np.int32)), OF_12_BITS,
])  # fmt: skip
def test_levels_without_a_known_white_are_refused(data, verify):
    with pytest.raises(BadImage, match="format not allowed: TIFF of float, signed, 12- or 32-bit levels; use 8 or 16"):
        probe_bytes(data, verify=verify)
    with pytest.raises(BadImage, match="format not allowed"):
        decode_image(data)


def test_a_16_bit_negative_is_refused():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) << 8)
    assert decode_image(encoded(ramp, "TIFF", tiffinfo={262: 1})).getpixel((1, 0)) == (1, 1, 1)
    with pytest.raises(BadImage, match="format not allowed: TIFF of 16-bit levels where 0 is white"):
        decode_image(encoded(ramp, "TIFF", tiffinfo={262: 0}))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "AVIF", "MPO"])
def test_of_several_frames_the_first_is_the_image(form):
    frames = [Image.new("RGB", (64, 48), colour) for colour in (RED, (0, 0, 0))]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert probe_bytes(data)[:3] == (64, 48, form.replace("MPO", "JPEG"))
    assert np.abs(np.asarray(decode_image(data), int) - RED).max() <= 8


@pytest.mark.parametrize(
    ("form", "orientation"), [*(("JPEG", n) for n in range(1, 9)), ("PNG", 6), ("WEBP", 6), ("AVIF", 6)]
)
def test_exif_orientation_turns_what_is_asked_to_be_upright_alone(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(64, 48), form, exif=exif)
    found, raw, upright = probe_bytes(data), decode_image(data), decode_image(data, upright=True)
    assert (found.width, found.height) == raw.size == (64, 48)
    assert (found.orientation, found.upright_size) == (orientation, upright.size)
    with Image.open(io.BytesIO(data)) as image:
        shown = ImageOps.exif_transpose(image)
    assert upright.tobytes() == shown.convert("RGB").tobytes()


def test_tiff_is_always_upright_and_its_size_is_that_of_its_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(64, 48), "TIFF", exif=exif)
    for verify in ("decode", "header"):
        assert probe_bytes(data, verify=verify)[:2] == (48, 64)  # type: ignore[arg-type]
    assert decode_image(data).size == decode_image(data, upright=True).size == (48, 64)


def test_an_orientation_behind_the_pixels_of_a_png_turns_neither_rows_nor_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise(64, 48), exif=exif)
    start, pixels, end = (data.index(name) - 4 for name in (b"eXIf", b"IDAT", b"IEND"))
    late = data[:start] + data[pixels:end] + data[start:pixels] + data[end:]
    for verify in ("decode", "header"):
        assert probe_bytes(late, verify=verify).upright_size == decode_image(late, upright=True).size  # type: ignore[arg-type]


def test_damaged_exif_turns_nothing():
    data = encoded(noise(), "JPEG")
    damaged = data[:2] + b"\xff\xe1\x00\x10Exif\0\0" + b"\xff" * 8 + data[2:]
    assert probe_bytes(damaged).orientation == 1
    assert decode_image(damaged, upright=True).tobytes() == decode_image(data).tobytes()


def test_decoding_ends_when_it_has_taken_its_time(monkeypatch):
    data = encoded(noise(300, 200), "JPEG")
    decode_image(data)
    monkeypatch.setattr("pipeline.data.images.opening.MAX_SECONDS", -1.0)
    assert refused(data).reason == "too slow"


def test_scans_are_limited_by_the_pixels_that_they_go_over(monkeypatch):
    data = encoded(noise(300, 200), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    monkeypatch.setattr("pipeline.data.images.opening.MAX_SCANNED_PIXELS", scans * 300 * 200)
    decode_image(data)
    monkeypatch.setattr("pipeline.data.images.opening.MAX_SCANNED_PIXELS", scans * 300 * 200 - 1)
    assert refused(data).reason == "too slow"


def test_what_follows_a_jpeg_such_as_a_phones_video_has_no_scans():
    thumbnail = encoded(noise(), "JPEG")
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0" + thumbnail) + b"ftypmp42" + b"\xff\xda" * 1000
    assert probe_bytes(data)[:3] == (64, 48, "JPEG")
    assert decode_image(data).size == (64, 48)


def test_a_file_above_the_limit_is_not_hashed(tmp_path):
    path = tmp_path / "a.jpg"
    path.touch()
    os.truncate(path, 2**40)
    assert fingerprint(path, "stat")
    with pytest.raises(BadImage, match="too large"):
        fingerprint(path, "bytes", limits=ImageLimits())


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


def test_images_come_in_order_and_bad_ones_in_their_turn(pictures):
    found = list(read_ahead(pictures, read_image, threads=3, ahead=7))
    assert len(found) == 30
    for path, image in zip(pictures, found, strict=True):
        if isinstance(image, BadImage):
            with pytest.raises(BadImage, match=image.reason):
                read_image(path)
        else:
            assert image.tobytes() == read_image(path).tobytes()
    assert [n for n, image in enumerate(found) if isinstance(image, BadImage)] == [4, 8]


def test_no_more_than_asked_for_is_read_ahead(pictures):
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
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_reading_is_done_on_the_threads_and_what_goes_wrong_there_comes_out(pictures):
    names = set()

    def size_of(place: ImageRef) -> tuple[int, int]:
        names.add(threading.current_thread().name.split("_")[0])
        if place == pictures[3]:
            raise MemoryError("too much")
        return read_image(place).size

    assert list(read_ahead(pictures[:3], size_of)) == [(60, 40)] * 3 and names == {"ahead"}
    with pytest.raises(MemoryError, match="too much"):
        list(read_ahead(pictures, size_of))
