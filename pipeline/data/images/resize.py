"""Reads images at another size, with the same pixels as Pillow at about half the cost.

JPEGs are decoded by torchvision, which uses libjpeg as Pillow does. The antialiased bicubic filter is Pillow's, with
weights rounded as in Pillow, and does not depend on the installed Pillow (docs/labels.md explains why torchvision's
own is not used). Legend: H x W pixels in, h x w out, 3 colours.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.data.images.opening import decode_image, probe_bytes, read_bytes
from pipeline.data.images.refs import ImageRef, UprightImage

_END = b"\xff\xd9"
"""The end of a complete JPEG. Torchvision's decoder silently fills the rest of a truncated one with grey."""
_BLOCK = 16
"""Columns per matrix product. More columns multiply more zeros; fewer leave the processor waiting."""
_STRIP = 4 * _BLOCK
"""Columns that go through both passes together, so that intermediate values stay in the processor's cache."""
_SUPPORT = 2.0
"""Half the width of the bicubic filter, in pixels of the smaller of the two sizes."""
_WEIGHT_STEPS = 2**22
"""Pillow's weights are multiples of 1 / this."""


class _Weights(NamedTuple):
    """Input pixels and weights of all output pixels of a row or column, concatenated; each begins at its `starts`."""

    pixels: Tensor
    starts: Tensor
    weights: Tensor


class _Band(NamedTuple):
    """The overlapping weights of neighbouring columns as a dense matrix, with its first input and output column."""

    first: int
    start: int
    weights: Tensor


def read_resized(place: ImageRef, width: int, height: int) -> Tensor:
    """Reads an image as RGB at another size, ignoring the aspect ratio: 3 x h x w, whole levels 0..255 as float32.

    Raises `BadImage` as `read_image` does.
    """
    return resized(_pixels(read_bytes(place), isinstance(place, UprightImage)), width, height)


@torch.no_grad()
def resized(pixels_HW3: Tensor, width: int, height: int) -> Tensor:
    """Resizes H x W x 3 bytes with the antialiased bicubic filter to 3 x h x w levels in float32.

    Resizes horizontally first, then vertically; each pass rounds to whole levels and clamps to 0..255. Pillow up to 12,
    with which BLIP was trained, uses this order. Since 13, Pillow resizes vertically first where that is cheaper, which
    changes values at hard edges of upright images by as much as 13.
    """
    rows, before, colours = pixels_HW3.shape
    lines_NW = pixels_HW3.transpose(1, 2).reshape(rows * colours, before)
    result_3hw = torch.empty(colours, height, width)
    for start in range(0, width, _STRIP):
        stop = min(start + _STRIP, width)
        strip_Ns = lines_NW[:, start:stop].float() if before == width else _across(lines_NW, width, start, stop)
        strip_hs = strip_Ns.view(rows, -1) if rows == height else _down(strip_Ns.view(rows, -1), height)
        result_3hw[:, :, start:stop] = strip_hs.view(height, colours, stop - start).transpose(0, 1)
    return result_3hw


def _across(lines_NW: Tensor, width: int, start: int, stop: int) -> Tensor:
    """Resizes lines horizontally; returns columns `start` to `stop` of the result."""
    result = torch.empty(len(lines_NW), stop - start)
    bands = _bands(lines_NW.shape[1], width)[start // _BLOCK : -(-stop // _BLOCK)]
    left, right = bands[0].first, bands[-1].first + len(bands[-1].weights)
    input_ = lines_NW[:, left:right].float()
    for first, at, weights in bands:
        reach, count = weights.shape
        source, target = first - left, at - start
        torch.mm(input_[:, source : source + reach], weights, out=result[:, target : target + count])
    return _to_levels(result)


def _down(rows_Hs: Tensor, height: int) -> Tensor:
    pixels, starts, weights = _weights(len(rows_Hs), height)
    return _to_levels(functional.embedding_bag(pixels, rows_Hs, starts, mode="sum", per_sample_weights=weights))


def _to_levels(values: Tensor) -> Tensor:
    """Rounds to whole levels and clamps, in place. Halves are rounded up, as in Pillow."""
    return values.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=512)
def _weights(before: int, after: int) -> _Weights:
    """Pillow's weights for resizing `before` to `after` pixels (Resample.c, 8-bit images)."""
    scale = before / after
    stretch = max(scale, 1.0)
    middles = (np.arange(after) + 0.5) * scale
    firsts = np.maximum((middles - _SUPPORT * stretch + 0.5).astype(int), 0)
    counts = np.minimum((middles + _SUPPORT * stretch + 0.5).astype(int), before) - firsts
    starts = counts.cumsum() - counts
    pixels = np.arange(counts.sum()) + np.repeat(firsts - starts, counts)
    weights = _bicubic((pixels - np.repeat(middles, counts) + 0.5) / stretch)
    weights /= np.repeat(np.add.reduceat(weights, starts), counts)
    rounded = np.trunc(weights * _WEIGHT_STEPS + np.copysign(0.5, weights)) / _WEIGHT_STEPS
    return _Weights(torch.from_numpy(pixels), torch.from_numpy(starts), torch.from_numpy(rounded.astype(np.float32)))


@lru_cache(maxsize=512)
def _bands(before: int, after: int) -> tuple[_Band, ...]:
    """The weights of `_weights` in blocks of columns."""
    pixels, starts, weights = _weights(before, after)
    column = torch.zeros(len(pixels), dtype=torch.long).scatter_(0, starts[1:], 1).cumsum(0)
    bands = []
    for start in range(0, after, _BLOCK):
        inside = (column >= start) & (column < start + _BLOCK)
        here = pixels[inside]
        first, last = int(here.min()), int(here.max())
        matrix = torch.zeros(last + 1 - first, min(_BLOCK, after - start))
        matrix[here - first, column[inside] - start] = weights[inside]
        bands.append(_Band(first, start, matrix))
    return tuple(bands)


def _bicubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel with a = -0.5."""
    x = np.abs(distance)
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < _SUPPORT, far, 0.0))


def _pixels(data: bytes, upright: bool) -> Tensor:
    """Decodes an image to H x W x 3 bytes."""
    if _is_plain_jpeg(data, upright):
        with suppress(RuntimeError):  # Pillow then reports what is wrong
            # A copy, because torch warns of memory that can't be written.
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            decoded_3HW: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB)
            return decoded_3HW.permute(1, 2, 0)
    return torch.from_numpy(np.array(decode_image(data, upright=upright)))


def _is_plain_jpeg(data: bytes, upright: bool) -> bool:
    """Whether the bytes are a complete JPEG in plain RGB that needs no turn. Raises `BadImage`."""
    found = probe_bytes(data, verify="header")
    if upright and found.orientation != 1:
        return False
    return found.format == "JPEG" and found.mode == "RGB" and data.endswith(_END)
