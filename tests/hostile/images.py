"""Image files: each costs its row, whatever is in it."""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.data.images.opening import BadImage, read_image
from tests.data import toy_sets
from tests.hostile.case import Case, Make, ingested, instances, sparse, table, written

SIZE = (64, 48)


def encoded(form: str, size: tuple[int, int] = SIZE, **options: Any) -> bytes:
    """An image in a format."""
    return toy_sets.encoded(Image.radial_gradient("L").resize(size).convert("RGB"), form, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", more: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with any header."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", data or zlib.compress(bytes(49 * 193))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + more + body


def bmp(width: int, height: int, offset: int = 54, bits: int = 24, compression: int = 0) -> bytes:
    """A BMP with any header."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 9216, 0, 0, offset) + info + bytes(9216)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header states another size."""
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def scans(count: int, side: int) -> bytes:
    """A progressive JPEG that repeats its last scan, each of which is decoded over the whole image."""
    data = encoded("JPEG", (side, side), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def webp_of(size: int) -> bytes:
    data = bytearray(encoded("WEBP"))
    data[4:8] = struct.pack("<I", size)
    return bytes(data)


def bomb(mebibytes: int) -> bytes:
    """Compressed data that unpack to that many MiB of zeros."""
    press = zlib.compressobj(1)
    head, block = (press.compress(data) + press.flush(zlib.Z_FULL_FLUSH) for data in (b"", bytes(2**20)))
    return head + block * mebibytes


def linked(target: str) -> Make:
    return lambda path: path.symlink_to(target)


GIF, TIFF = encoded("GIF"), encoded("TIFF", compression="tiff_lzw")
KEPT = "kept 2 images, 1 boxes; quarantined nothing"
JPEG, PNG = encoded("JPEG"), encoded("PNG")
WEBP_OF_80_MEGAPIXELS = b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0/\xef\xe2\xbb\x08\x07\x10\x11\xfd\x0fDD\xff\x03"


def lost(reason: str) -> str:
    """The outcome for an image that costs its row alone."""
    return f"kept 1 images, 1 boxes; quarantined 2 {reason}"


IMAGES: dict[str, tuple[str, Make]] = {
    "empty": (lost("empty file"), b""),
    "zeros": (lost("not an image"), bytes(4096)),
    "HTML with a script": (lost("not an image"), b"<html><script>alert(1)</script>"),
    "SVG": (lost("format not allowed: SVG"), b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "GIF of 65,535 pixels a side": (lost("too large"), GIF[:6] + b"\xff" * 4 + GIF[10:]),
    "TIFF whose tags are noise": (lost("(truncated|corrupt|too large|too small)"), TIFF[:8] + b"\xff" * 300 + TIFF[308:]),
    "JPEG cut in its middle": (lost("(truncated|corrupt)"), JPEG[: len(JPEG) // 2]),
    "JPEG of zero pixels": (lost("(too small|corrupt)"), jpeg_of_size(0, 0)),
    "JPEG of 65,500 pixels a side": (lost("too large"), jpeg_of_size(65_500, 65_500)),
    "JPEG that states a hundred times its pixels": ("kept 2 images.*2 declared size wrong", jpeg_of_size(640, 480)),
    "JPEG of 100,000 scans": (lost("too slow"), scans(100_000, 64)),
    "PNG with a wrong checksum": (lost("corrupt"), PNG.replace(b"IDAT", b"IDAU")),
    "PNG of 2^32 pixels a side": (lost("(too large|corrupt)"), png(2**32 - 1, 2**32 - 1)),
    "PNG of one row of 80 million pixels": (lost("too large"), png(80_000_000, 1)),
    "PNG whose data unpack to 4 GiB": (KEPT, png(64, 48, bomb(4096))),
    "PNG with less data than pixels": (lost("(truncated|corrupt)"), png(64, 48, zlib.compress(b"\0" * 99))),
    "PNG with a comment of 4 GiB": (lost("corrupt"), png(64, 48, more=chunk(b"zTXt", b"a\0\0" + bomb(4096)))),
    "PNG with a profile of 4 GiB": (lost("corrupt"), png(64, 48, more=chunk(b"iCCP", b"x\0\0" + bomb(4096)))),
    "PNG with a chunk of 2 GB that isn't there": (lost("(truncated|corrupt)"), PNG[:33] + b"\x7f\xff\xff\xffzTXt" + bytes(99)),
    "PNG of unknown colours": (lost("corrupt"), png(64, 48, colour=7)),
    "animated PNG of a billion frames": (KEPT, png(64, 48, more=chunk(b"acTL", struct.pack(">II", 10**9, 0)))),
    "BMP whose pixels lie behind its end": (lost("(truncated|corrupt)"), bmp(64, 48, offset=2**31)),
    "WebP cut short": (lost("truncated"), encoded("WEBP")[:-9]),
    "WebP that states 4 GB": (lost("truncated"), webp_of(2**32 - 10)),
    "WebP of 80 megapixels in 34 bytes": (lost("too large"), WEBP_OF_80_MEGAPIXELS),
    "sparse file of 1 TiB that begins as a JPEG": (lost("too large"), sparse(JPEG)),
    "folder": (lost("unreadable file"), lambda path: path.mkdir()),
    "pipe": (lost("unreadable file"), lambda path: os.mkfifo(path)),
    "link to an endless device": (lost("unreadable file"), linked("/dev/zero")),
    "link to itself": (lost("unreadable file"), lambda path: path.symlink_to(path.name)),
    "link to nothing": (lost("missing file"), linked("nowhere")),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Each image beside a good one."""
    yield from table("image", IMAGES, _beside_a_good_one)


def _beside_a_good_one(folder: Path, content: Make) -> str:
    name = "bad.jpg"
    written(folder / "images" / name, content)
    with suppress(BadImage):  # here, as later stages open what ingest accepted, and where every step is watched
        read_image(folder / "images" / name)
    return ingested(folder, instances([{"id": 2, "file_name": name, "width": 64, "height": 48}]))
