"""The page's pictures: images decoded by the pipeline's rules and encoded as JPEG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from storage.errors import PipelineError

LONGEST = 1600
"""Longest side of a picture, in pixels."""
_PICTURES = 256
"""Pictures in memory, about 100 kB each: a team sees the images of its overlap twice."""


class NoPicture(Exception):
    """The image can't be shown. The text says why, without a path of this machine."""


class Pictures:
    """Pictures of the datasets of a run. `folders`: dataset → location of its images. Thread-safe."""

    def __init__(self, folders: Mapping[str, Path | str]) -> None:
        self._folders = folders
        self.jpeg = lru_cache(_PICTURES)(self._jpeg)

    def _jpeg(self, dataset: str, uri: str, longest: int) -> bytes:
        """An image, reduced to sides of at most `longest` pixels. Raises `NoPicture`."""
        if dataset not in self._folders:
            raise NoPicture(f"no recipe says where the images of {dataset} are")
        try:
            image = read_image(locate_image(self._folders, {"dataset": dataset, "uri": uri}))
        except BadImage as error:
            raise NoPicture(error.reason) from error
        except (OSError, PipelineError) as error:
            raise NoPicture("its file is not on this machine") from error
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR, reducing_gap=1.5)
        written = io.BytesIO()
        image.save(written, "JPEG", quality=85)
        return written.getvalue()
