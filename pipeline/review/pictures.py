"""The page's pictures: whole images and parts of them, decoded by the pipeline's rules and encoded as JPEG."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from storage.errors import PipelineError

Region = tuple[int, int, int, int]
_Key = tuple[str, str, Region | None, int]

LONGEST = 1600
"""Longest side of a whole image, in pixels."""
CHIP = 360
"""Longest side of a part of an image, in pixels."""
_DECODED = 24
"""Number of decoded images in memory: a screen of labels often shows the same image several times."""
_SENT_BYTES = 48 << 20
"""Bytes of JPEG in memory."""


class NoPicture(Exception):
    """The image can't be shown. The text says why, without a path of this machine."""


class Pictures:
    """Pictures of the datasets of a run. `folders`: dataset → location of its images. Thread-safe."""

    def __init__(self, folders: Mapping[str, Path | str]) -> None:
        self._folders = folders
        self._decoded = lru_cache(_DECODED)(self._read)
        self._sent: OrderedDict[_Key, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def jpeg(self, dataset: str, uri: str, region: Region | None = None, longest: int = LONGEST) -> bytes:
        """The image or its part `region` (x, y, width, height in pixels), with sides of at most `longest` pixels.

        Raises `NoPicture`.
        """
        key = dataset, uri, region, longest
        with self._lock:
            if key in self._sent:
                self._sent.move_to_end(key)
                return self._sent[key]
        image = self._decoded(dataset, uri)
        x, y, width, height = region or (0, 0, *image.size)
        box = x, y, x + width, y + height
        scale = longest / max(width, height)
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            # A screen requests twenty parts at once, each viewed for about a second: the cheaper filter is enough.
            image = image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=1.5)
        elif region is not None:
            image = image.crop(box)
        written = io.BytesIO()
        image.save(written, "JPEG", quality=85)
        return self._keep(key, written.getvalue())

    def _read(self, dataset: str, uri: str) -> Image.Image:
        if dataset not in self._folders:
            raise NoPicture(f"no recipe says where the images of {dataset} are")
        try:
            return read_image(locate_image(self._folders, {"dataset": dataset, "uri": uri}))
        except BadImage as error:
            raise NoPicture(error.reason) from error
        except (OSError, PipelineError) as error:
            raise NoPicture("its file is not on this machine") from error

    def _keep(self, key: _Key, data: bytes) -> bytes:
        with self._lock:
            if key not in self._sent:
                self._sent[key] = data
                self._size += len(data)
            while self._size > _SENT_BYTES and len(self._sent) > 1:
                _, dropped = self._sent.popitem(last=False)
                self._size -= len(dropped)
        return data
