"""Opens untrusted images as RGB: formats are allow-listed by content; bytes and pixels are limited.

EXIF orientation is applied to images without annotations (`UprightImage`) alone: COCO, Objects365, Visual Genome and
HICO-DET state boxes in the file's raw pixels. Of files with several frames or pages, the first one is the image.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile
from pydantic import Field

from pipeline.data.images.refs import ImageRef, UprightImage, read_first, state_of
from pipeline.runtime.settings import Settings
from pipeline.runtime.wording import MISSING, UNREADABLE
from storage.digests import digest_bytes

ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"]
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
PILLOW_WARNS_ABOVE = 89_478_485
"""Pillow's own threshold for decompression bombs, in pixels; our limit stays below it."""

MAX_SCANS = 100
"""Scans of a JPEG, each of which is decoded over the whole image. Encoders write 10, or 18 for CMYK."""
MAX_SCANNED_PIXELS = 1_500_000_000
"""Pixels of a JPEG times its scans: 18 of the largest image. A scan takes few bytes if it changes nothing."""
MAX_SECONDS = 5.0
"""Processor time for decoding an image. The largest that the limits allow takes 1 s; only hostile files take more."""

_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""Begins a segment of a JPEG, or ends the image (d9). It occurs nowhere in the coded data of scans."""
_SCAN, _END = b"\xda", b"\xd9"
_HEADER_BYTES = 32
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the pixels as viewers show them."""
_ALLOWED_SIGNATURES: tuple[tuple[bytes, int, ImageFormat], ...] = (
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"WEBP", 8, "WEBP"),
    (b"BM", 0, "BMP"),
    (b"GIF8", 0, "GIF"),
    (b"II*\x00", 0, "TIFF"),
    (b"MM\x00*", 0, "TIFF"),
    (b"ftypavif", 4, "AVIF"),
    (b"ftypavis", 4, "AVIF"),
)
_OTHER_SIGNATURES = (
    (b"ftyp", 4, "HEIF"),
    (b"8BPS", 0, "PSD"),
    (b"%!PS", 0, "PostScript"),
    (b"%PDF", 0, "PDF"),
    (b"<svg", 0, "SVG"),
    (b"<?xml", 0, "XML"),
    (b"\x00\x00\x01\x00", 0, "ICO"),
    (b"\x00\x00\x00\x0cjP", 0, "JPEG 2000"),
)


class ImageLimits(Settings):
    """Limits on image files."""

    formats: tuple[ImageFormat, ...] = FORMATS
    """Accepted formats, judged by a file's content, never by its extension."""
    max_pixels: int = Field(default=80_000_000, gt=0, le=PILLOW_WARNS_ABOVE)
    """Maximum number of pixels, width times height."""
    max_side: int = Field(default=20_000, gt=0)
    """Maximum length of a side in pixels."""
    min_side: int = Field(default=8, gt=0)
    """Minimum length of a side in pixels."""
    max_bytes: int = Field(default=128 * 2**20, gt=0)
    """Maximum size of the file in bytes."""


LOOSEST_LIMITS = ImageLimits(max_pixels=PILLOW_WARNS_ABOVE, max_side=PILLOW_WARNS_ABOVE, min_side=1, max_bytes=2**30)
"""For images that `ingest` has accepted, since a recipe's limits may be wider than their defaults. 1 GiB is more than
the largest image takes uncompressed."""


class BadImage(Exception):
    """An image cannot be used. `reason` is one of a few short, countable phrases; `value` holds the details.

    Reasons: missing file, unreadable file, empty file, not an image, format not allowed, too large, too small,
    truncated, corrupt, too slow.
    """

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(f"{reason}: {value}" if value else reason)
        self.reason = reason
        self.value = value


class Probe(NamedTuple):
    """Content of a file header: size in raw pixels, format, Pillow's colour mode, and EXIF orientation (1 to 8)."""

    width: int
    height: int
    format: str
    mode: str = "RGB"
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the image as its EXIF orientation turns it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_image(path: ImageRef, limits: ImageLimits = LOOSEST_LIMITS) -> Image.Image:
    """Reads and decodes an image file as RGB, in raw pixels or upright as the reference says. Raises `BadImage`."""
    return decode_image(read_bytes(path, limits), limits, isinstance(path, UprightImage))


def probe(path: ImageRef) -> Probe:
    """Determines size and format of an image file by its header. Raises `BadImage`."""
    return probe_bytes(read_bytes(path), verify="header")


def read_bytes(path: ImageRef, limits: ImageLimits = LOOSEST_LIMITS) -> bytes:
    """Reads the bytes of an image file within the limits. Raises `BadImage`."""
    data = _limited_bytes(path, limits)
    if not data:
        raise BadImage("empty file", path.name)
    return data


def _limited_bytes(path: ImageRef, limits: ImageLimits) -> bytes:
    with _readable(path):
        # A file that is known to be too large is not read: it could take a whole worker's memory.
        is_larger = isinstance(path, Path) and path.stat().st_size > limits.max_bytes
        data = b"" if is_larger else read_first(path, limits.max_bytes + 1)
    if is_larger or len(data) > limits.max_bytes:
        raise BadImage("too large", f"more than {limits.max_bytes} bytes")
    return data


@contextmanager
def _readable(path: ImageRef) -> Iterator[None]:
    """Converts errors of reading a file to `BadImage`."""
    try:
        yield
    except FileNotFoundError:
        raise BadImage(MISSING, path.name) from None
    except OSError as error:
        raise BadImage(UNREADABLE, f"{path.name}: {error.strerror}") from error


def decode_image(data: bytes, limits: ImageLimits = LOOSEST_LIMITS, upright: bool = False) -> Image.Image:
    """Decodes bytes as RGB, as `as_rgb` does. Raises `BadImage`.

    `upright`: turn the image as its EXIF orientation says.
    """
    with _opened(data, limits) as image:
        turn = _TURNS.get(orientation_of(image)) if upright else None  # that of the header, as in probes
        image.load()
        return as_rgb(image) if turn is None else as_rgb(image).transpose(turn)


def probe_bytes(
    data: bytes, limits: ImageLimits = LOOSEST_LIMITS, verify: Literal["decode", "header"] = "decode"
) -> Probe:
    """Determines size and format of an image. Raises `BadImage`.

    "decode" runs the decoder over the whole file, so that a truncated file is found here and not hours later;
    "header" checks only the header.
    """
    with _opened(data, limits) as image:
        found = _probe(image)
        if verify == "decode":
            # A JPEG decoded at an eighth of its size still reads every byte of its entropy-coded data.
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
        return found


def probe_and_reduce(data: bytes, side: int) -> tuple[Probe, Image.Image]:
    """Like `probe_bytes`, with the decoded image in grey. That of a JPEG is reduced while its sides stay at `side`
    pixels or more. Raises `BadImage`.
    """
    with _opened(data, LOOSEST_LIMITS) as image:
        found = _probe(image)
        image.draft(None, (side, side))
        image.load()
        return found, as_rgb(image).convert("L")


def _probe(image: Image.Image) -> Probe:
    return Probe(image.width, image.height, image.format or "", image.mode, orientation_of(image))


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation; 1 without EXIF, for damaged EXIF, and for TIFF, which Pillow turns itself."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        found = exif.get(_ORIENTATION)
    except Exception:  # the parser may raise anything on hostile bytes, and viewers ignore such EXIF
        return 1
    return found if found in _TURNS else 1


@contextmanager
def _opened(data: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """Opens the image and checks its size. Converts any decoding error inside the context to `BadImage`."""
    form = _identify(data, limits)
    scans = _scans(data) if form == "JPEG" else 0
    if scans > MAX_SCANS:
        raise BadImage("too slow", f"JPEG of {scans} scans, more than {MAX_SCANS}")
    try:
        # Pillow also warns of sizes that are refused below. A filter for each image would make Python forget, in all
        # threads, which other warnings it has shown.
        with Image.open(_Timed(data), formats=(form,)) as image:
            image.format = form  # Pillow calls a JPEG that is followed by further images, as phones write it, MPO
            _check_size(image.width, image.height, limits)
            if isinstance(image, TiffImageFile):
                if image.mode in ("F", "I") or "I;12" in str(image.tile[:1]):
                    raise BadImage(
                        "format not allowed", "TIFF of float, signed, 12- or 32-bit levels; use 8 or 16 bits"
                    )
                # Pillow inverts only levels of up to 8 bits.
                if image.mode.startswith("I;16") and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
                    raise BadImage("format not allowed", "TIFF of 16-bit levels where 0 is white; make 0 black")
            if scans * image.width * image.height > MAX_SCANNED_PIXELS:
                raise BadImage("too slow", f"JPEG of {scans} scans of {image.width}x{image.height}")
            yield image
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadImage("corrupt", f"{form} with an unreadable header") from error
    except MemoryError as error:
        raise BadImage("too large", f"{form}: decoding takes too much memory") from error
    except OSError as error:
        raise BadImage("truncated" if _is_cut_off(str(error)) else "corrupt", f"{form}: {error}") from error
    except Exception as error:  # decoders may raise anything on hostile bytes
        raise BadImage("corrupt", f"{form}: {type(error).__name__}: {error}") from error


def _scans(data: bytes) -> int:
    """The number of scans of a JPEG. What follows it is not decoded, such as the video of a phone's motion photo."""
    scans, file = 0, _Timed(data)
    while (marker := _MARKER.search(data, file.tell())) and marker[1] != _END:
        scans += marker[1] == _SCAN
        file.seek(marker.end())
        file.seek(marker.end() + int.from_bytes(file.read(2), "big"))
    return scans


class _Timed(BytesIO):
    """The bytes of an image, which can be read as long as the thread has spent less than `MAX_SECONDS` on it.

    Decoders read piece by piece, so that decoding ends in any thread, without a signal or a process for each image.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._until = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise BadImage("too slow", f"decoding takes more than {MAX_SECONDS:g} s")
        return super().read(size)


def _identify(data: bytes, limits: ImageLimits) -> ImageFormat:
    head = data[:_HEADER_BYTES]
    for signature, offset, form in _ALLOWED_SIGNATURES:
        if head.startswith(signature, offset):
            if form not in limits.formats:
                raise BadImage("format not allowed", form)
            if form == "WEBP" and int.from_bytes(head[4:8], "little") + 8 > len(data):
                raise BadImage("truncated", "WEBP: the file is shorter than its header says")
            if form == "AVIF" and not features.check("avif"):
                raise BadImage("format not allowed", "AVIF, which the installed Pillow was built without")
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


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB: transparency is blended with white, 16-bit grey keeps its upper byte."""
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


def fingerprint(
    ref: ImageRef,
    by: Literal["bytes", "stat"] = "bytes",
    data: bytes | None = None,
    limits: ImageLimits = LOOSEST_LIMITS,
) -> str:
    """SHA-256 in hex of the bytes of a file, or of its size and modification time in ns. Raises `BadImage`.

    `data` are the bytes of the file, if already read. A file of more bytes than the limits allow is not read.

    "stat" reads no content, but treats a copy as a different file, and a file modified in place with its time preserved
    as unchanged.
    """
    if by == "stat":
        with _readable(ref):
            state = state_of(ref)
        data = f"{state.size} {state.time_ns}".encode()
    return digest_bytes(_limited_bytes(ref, limits) if data is None else data)


Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    places: Iterable[ImageRef], read: Callable[[ImageRef], Read], threads: int = 2, ahead: int = 16
) -> Iterator[Read | BadImage]:
    """Yields the result of `read` (e.g. `read_image`) for each place, or its `BadImage`, in the order of `places`.

    At most `ahead` images are held in addition to the current one. Decoding and resizing release the GIL. Any exception
    other than `BadImage` is raised here, in the turn of its image. Closing the iterator early leaves nothing running.
    """

    def read_or_error(place: ImageRef) -> Read | BadImage:
        try:
            return read(place)
        except BadImage as bad:
            return bad

    return done_ahead(read_or_error, places, threads, ahead)


def done_ahead(
    work: Callable[[Item], Read], items: Iterable[Item], threads: int, ahead: int, waits: bool = True
) -> Iterator[Read]:
    """Applies `work` to items in threads and yields the results in the order of `items`; at most `ahead` are under way.

    `waits`: whether an early end waits for the work under way.
    """
    left, pool = iter(items), ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        waiting = deque(pool.submit(work, item) for item in islice(left, max(1, ahead)))
        while waiting:
            found = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(left, 1))
            yield found
    finally:
        pool.shutdown(waits, cancel_futures=True)
