"""The pictures that the page shows."""

import io

import pytest
from fastapi import HTTPException
from PIL import Image

from pipeline.review.app import SIDE, jpeg_of


def test_pictures_are_bounded_by_pixels_so_that_narrow_ones_stay_legible(tmp_path):
    for name, size in (("tall", (400, 6000)), ("large", (4000, 3000))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    folders = {"toys": tmp_path}
    sizes = [Image.open(io.BytesIO(jpeg_of(folders, "toys", f"{name}.png", SIDE))).size for name in ("tall", "large")]
    assert sizes == [(400, 6000), (1848, 1386)]
    assert Image.open(io.BytesIO(jpeg_of(folders, "toys", "large.png", 120))).size == (139, 104)


def test_a_jpeg_is_sent_as_it_is_unless_browsers_would_turn_it(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, exif in (("plain", Image.Exif()), ("turned", turned)):
        Image.new("RGB", (64, 32)).save(tmp_path / f"{name}.jpg", exif=exif)
    sent = {name: jpeg_of({"toys": tmp_path}, "toys", f"{name}.jpg", SIDE) for name in ("plain", "turned")}
    assert [name for name, data in sent.items() if data == (tmp_path / f"{name}.jpg").read_bytes()] == ["plain"]
    assert not Image.open(io.BytesIO(sent["turned"])).getexif()


def test_a_picture_that_cannot_be_shown_says_why_without_a_path(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for dataset, uri, reason in (("toys", "gone.png", "missing file"), ("toys", "torn.png", "corrupt"),
                                 ("others", "a.png", "no recipe says where the images of others are")):  # fmt: skip
        with pytest.raises(HTTPException) as raised:
            jpeg_of({"toys": tmp_path}, dataset, uri, SIDE)
        assert reason in str(raised.value) and str(tmp_path) not in str(raised.value)
