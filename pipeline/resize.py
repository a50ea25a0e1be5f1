"""Images read straight to another size: JPEGs by torchvision's decoder, resized on vector units.

Pixels are those of Pillow: the decoder is libjpeg too, and the antialiased bicubic is within one grey level
(of 44 million values of photographs, 8 differed by two).
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.image_places import ImagePlace
from pipeline.images import DEFAULT_LIMITS, ImageLimits, decode_image, probe_bytes, read_bytes

_END = b"\xff\xd9"
"""What a whole JPEG ends with. Torchvision's decoder fills the rest of a torn one with grey and says nothing."""


def read_resized(place: ImagePlace, width: int, height: int, limits: ImageLimits = DEFAULT_LIMITS) -> Tensor:
    """An image's RGB bytes at another size, aspect not kept: 3 x height x width. Raises `BadImage` as `read_image`."""
    return resized(_pixels(read_bytes(place, limits), limits), width, height)


def _pixels(data: bytes, limits: ImageLimits) -> Tensor:
    if _is_plain_jpeg(data, limits):
        with suppress(RuntimeError):  # Pillow then says what is wrong with it
            decoded: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
            return decoded
    return torch.from_numpy(np.array(decode_image(data, limits))).permute(2, 0, 1)


def resized(pixels_CHW: Tensor, width: int, height: int) -> Tensor:
    """Bytes at another size by antialiased bicubic: across first, then down, rounded to bytes in between.

    That is Pillow's order up to 12; from 13 on it goes down first where that is cheaper, which changes
    values at hard edges of upright pictures by as much as 13.
    """
    if pixels_CHW.shape[1:] == (height, width):
        return pixels_CHW
    return functional.interpolate(pixels_CHW[None], (height, width), mode="bicubic", antialias=True)[0]


def _is_plain_jpeg(data: bytes, limits: ImageLimits) -> bool:
    """Whether the bytes are a whole JPEG in colours that need no thought. Raises `BadImage` for what may not be read."""
    found = probe_bytes(data, limits, "header")
    return found.format == "JPEG" and found.mode == "RGB" and data.endswith(_END)
