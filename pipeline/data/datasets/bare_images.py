"""Reads a bare folder of images: no annotations, so records have no boxes and a detector finds them later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import ClassVar

from pipeline.data.datasets.annotations import readable, shown
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import ImageRecord
from pipeline.data.images.refs import ImageFolder
from pipeline.runtime.stage import Rejected

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
"""Endings of file names that count as images, in any case. Whether a file is one shows when it is decoded."""
_ID_BITS = 53
"""Ids of this length are exact in JSON of every language and in float64."""


class BareImagesReader(Reader):
    """Yields every image of the folder and its subfolders, in the order of their names."""

    files: ClassVar = {}

    def _records(self) -> Iterator[ImageRecord]:
        seen: dict[int, str] = {}
        for name in image_names(self.folder):
            image_id = id_of_name(name)
            if readable(name) != name:
                self.rejects.append(Rejected(image_id, "file name not usable", shown(name)))
                continue
            if seen.setdefault(image_id, name) != name:
                self.rejects.append(Rejected(image_id, "duplicate image id", f"{name}, as {seen[image_id]}"))
                continue
            yield self.record(image_id, self.place(name))
        self.report(1.0)


def image_names(folder: ImageFolder) -> list[str]:
    """The names of the images in a folder, sorted. Hidden ones, such as macOS adds to tars, don't count."""
    return [name for name in folder.names() if _is_image(PurePosixPath(name))]


def _is_image(path: PurePosixPath) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def id_of_name(name: str) -> int:
    """The id of an image, from its name in the folder alone: adding or removing others changes no id."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") >> (64 - _ID_BITS)
