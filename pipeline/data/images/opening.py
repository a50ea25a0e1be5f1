"""Opening images that nobody vouches for: allow-listed formats by content, caps on bytes and pixels, RGB out.

EXIF orientation is not applied: COCO, Objects365, Visual Genome and HICO-DET state boxes in the file's raw pixels.
Sets labelled on turned pictures show by their declared sizes (`is_turned_by_exif`).
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from pipeline.data.images.refs import ImageRef, StoredImage
from pipeline.runtime.settings import Settings

ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP"]
PILLOW_WARNS_ABOVE = 89_478_485
"""Pillow's own alarm for decompression bombs, in pixels; our cap stays below it."""

_HEADER_BYTES = 32
_ORIENTATION = 0x0112
_ALLOWED_SIGNATURES: tuple[tuple[bytes, int, ImageFormat], ...] = (
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"WEBP", 8, "WEBP"),
    (b"BM", 0, "BMP"),
)
_OTHER_SIGNATURES = (
    (b"GIF8", 0, "GIF"),
    (b"II*\x00", 0, "TIFF"),
    (b"MM\x00*", 0, "TIFF"),
    (b"ftyp", 4, "HEIF or AVIF"),
    (b"8BPS", 0, "PSD"),
    (b"%!PS", 0, "PostScript"),
    (b"%PDF", 0, "PDF"),
    (b"<svg", 0, "SVG"),
    (b"<?xml", 0, "XML"),
    (b"\x00\x00\x01\x00", 0, "ICO"),
    (b"\x00\x00\x00\x0cjP", 0, "JPEG 2000"),
)


class ImageLimits(Settings):
    """What an image file may be."""

    formats: tuple[ImageFormat, ...] = ("JPEG", "PNG", "WEBP", "BMP")
    """Formats that are decoded; a file's content decides, never its extension."""
    max_pixels: int = Field(default=80_000_000, gt=0, le=PILLOW_WARNS_ABOVE)
    max_side: int = Field(default=20_000, gt=0)
    """The longest side in pixels."""
    min_side: int = Field(default=8, gt=0)
    """The shortest side in pixels: less than this shows nothing."""
    max_bytes: int = Field(default=128 * 2**20, gt=0)
    """Size of the file."""


DEFAULT_LIMITS = ImageLimits()


class BadImage(Exception):
    """An image that can't be used. `reason` is one of a few short phrases that can be counted, `value` tells the rest.

    Reasons: missing file, unreadable file, empty file, not an image, format not allowed, too large, too small,
    truncated, corrupt.
    """

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(f"{reason}: {value}" if value else reason)
        self.reason = reason
        self.value = value


class Probe(NamedTuple):
    """What a file's header says: size in raw pixels, format, and Pillow's name for its colours."""

    width: int
    height: int
    format: str
    mode: str = "RGB"


def read_image(path: ImageRef, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Read and decode an image file as RGB, in raw pixel orientation. Raises `BadImage`."""
    return decode_image(read_bytes(path, limits), limits)


def probe(
    path: ImageRef, limits: ImageLimits = DEFAULT_LIMITS, verify: Literal["decode", "header"] = "decode"
) -> Probe:
    """Size and format of an image file. Raises `BadImage`.

    "decode" runs the decoder over the whole file, so that a torn file is found here and not hours later;
    "header" reads the header only.
    """
    return probe_bytes(read_bytes(path, limits), limits, verify)


def read_bytes(path: ImageRef, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of an image file that is within the limits. Raises `BadImage`."""
    try:
        if isinstance(path, StoredImage):
            data = path.read(limits.max_bytes + 1)
        else:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size  # reading takes as much memory as it is asked for
                data = file.read(min(size, limits.max_bytes) + 1)
    except FileNotFoundError:
        raise BadImage("missing file", path.name) from None
    except OSError as error:
        raise BadImage("unreadable file", f"{path.name}: {error.strerror}") from error
    if not data:
        raise BadImage("empty file", path.name)
    if len(data) > limits.max_bytes:
        raise BadImage("too large", f"more than {limits.max_bytes} bytes")
    return data


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; a pipe, which would be waited for without end, or a device is no such file.

    Raises `BadImage` for those and for folders, OSError for what can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise BadImage("unreadable file", f"{path.name}: not a regular file")


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode bytes as RGB: transparency is laid on white, 16-bit grey keeps its upper byte. Raises `BadImage`."""
    with _opened(data, limits) as image:
        image.load()
        return _as_rgb(image)


def probe_bytes(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, verify: Literal["decode", "header"] = "decode"
) -> Probe:
    """`probe` for bytes that were read already. Raises `BadImage`."""
    with _opened(data, limits) as image:
        found = Probe(image.width, image.height, image.format or "", image.mode)
        if verify == "decode":
            # A JPEG decoded at an eighth of its size still reads every byte of its entropy-coded data.
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
        return found


def is_turned_by_exif(path: ImageRef, limits: ImageLimits = DEFAULT_LIMITS) -> bool:
    """Whether viewers show the picture turned by a quarter: its EXIF orientation is 5 to 8. Raises `BadImage`."""
    with _opened(read_bytes(path, limits), limits) as image:
        return image.getexif().get(_ORIENTATION, 1) in range(5, 9)


@contextmanager
def _opened(data: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """The image with its header read and its size checked; whatever decoding raises inside comes out as `BadImage`."""
    form = _identify(data, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=(form,))
        with image:
            _check_size(image.width, image.height, limits)
            yield image
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadImage("corrupt", f"{form} with an unreadable header") from error
    except OSError as error:
        raise BadImage("truncated" if _is_cut_off(str(error)) else "corrupt", f"{form}: {error}") from error
    except Exception as error:  # decoders fed with hostile bytes raise anything
        raise BadImage("corrupt", f"{form}: {type(error).__name__}: {error}") from error


def _identify(data: bytes, limits: ImageLimits) -> ImageFormat:
    head = data[:_HEADER_BYTES]
    for signature, offset, form in _ALLOWED_SIGNATURES:
        if head.startswith(signature, offset):
            if form not in limits.formats:
                raise BadImage("format not allowed", form)
            if form == "WEBP" and int.from_bytes(head[4:8], "little") + 8 > len(data):
                raise BadImage("truncated", "WEBP: the file is shorter than its header says")
            return form
    for signature, offset, name in _OTHER_SIGNATURES:
        if head.startswith(signature, offset):
            raise BadImage("format not allowed", name)
    raise BadImage("not an image", f"begins with {head[:8].hex(' ')}")


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    size = f"{width}x{height}"
    if max(width, height) > limits.max_side:
        raise BadImage("too large", f"{size}, a side above {limits.max_side}")
    if width * height > limits.max_pixels:
        raise BadImage("too large", f"{size}, more than {limits.max_pixels} pixels")
    if min(width, height) < limits.min_side:
        raise BadImage("too small", f"{size}, a side below {limits.min_side}")


def _is_cut_off(message: str) -> bool:
    return any(sign in message.lower() for sign in ("truncated", "unexpected end", "too short", "end of file"))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layered).convert("RGB")
    return image.convert("RGB")


MOST_READ = 2**30
"""Bytes of a file elsewhere that are read at most; no image is as long."""


def fingerprint(ref: ImageRef, by: Literal["bytes", "stat"] = "bytes", data: bytes | None = None) -> str:
    """A sha256 in hex of the file's bytes, or of its size and modification time in ns. Raises `BadImage`.

    `data` are the file's bytes where they were read already.

    "stat" costs no reading but takes a copied file for another one, and a file changed in place with its time kept
    for the same one.
    """
    try:
        if by == "stat":
            size, time_ns = _size_and_time(ref)
            return hashlib.sha256(f"{size} {time_ns}".encode()).hexdigest()
        if data is not None:
            return hashlib.sha256(data).hexdigest()
        if isinstance(ref, StoredImage):
            return hashlib.sha256(ref.read(MOST_READ)).hexdigest()
        with open_regular(ref) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadImage("missing file", ref.name) from None
    except OSError as error:
        raise BadImage("unreadable file", f"{ref.name}: {error.strerror}") from error


def _size_and_time(place: ImageRef) -> tuple[int, int]:
    if isinstance(place, StoredImage):
        return place.size_and_time()
    status = place.stat()
    return status.st_size, status.st_mtime_ns
