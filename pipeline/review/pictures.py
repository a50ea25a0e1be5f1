"""The page's pictures: JPEGs as they are, and others decoded by the pipeline's rules and encoded as JPEG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, decode_image, probe_bytes, read_bytes
from pipeline.data.images.refs import UprightImage
from storage.errors import PipelineError

SIDE = 1600
"""Side in pixels of a square that is as large as the largest picture: a narrow picture may be longer."""
_PICTURES = 256
"""Pictures in memory, about 100 kB each: a team sees the images of its overlap twice."""


class NoPicture(Exception):
    """The image can't be shown. The text says why, without a path of this machine."""


class Pictures:
    """Pictures of the datasets of a run. `folders`: dataset → location of its images. Thread-safe."""

    def __init__(self, folders: Mapping[str, Path | str]) -> None:
        self._folders = folders
        self.jpeg = lru_cache(_PICTURES)(self._jpeg)

    def _jpeg(self, dataset: str, uri: str, side: int) -> bytes:
        """An image, reduced to at most as many pixels as a square of this side has. Raises `NoPicture`."""
        if dataset not in self._folders:
            raise NoPicture(f"no recipe says where the images of {dataset} are")
        try:
            place = locate_image(self._folders, {"dataset": dataset, "uri": uri})
            data = read_bytes(place)
            probe = probe_bytes(data, verify="header")
            if probe[2:] == ("JPEG", "RGB", 1) and probe.width * probe.height <= side * side:
                # Browsers decode it to the same pixels, and decoding for a team would keep a processor busy.
                return data
            image = decode_image(data, upright=isinstance(place, UprightImage))
        except BadImage as error:
            raise NoPicture(error.reason) from error
        except (OSError, PipelineError) as error:
            raise NoPicture("its file is not on this machine") from error
        scale = side / math.sqrt(image.width * image.height)
        if scale < 1:
            size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)
        written = io.BytesIO()
        image.save(written, "JPEG", quality=85)
        return written.getvalue()
