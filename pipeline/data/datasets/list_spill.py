"""Lists of an annotation file's entries on their way from file order to image order: on disk, a few words of memory each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class ListSpill:
    """Takes lists of JSON values in any order of images, gives those of an image one after the other as they came."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115 - closed by `close`
        self._places: dict[int, list[int]] = {}
        """Where the lists of an image begin in the file; each is a line."""

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()

    def add(self, image_id: int, values: list[Any]) -> None:
        """Take a list of an image."""
        self._places.setdefault(image_id, []).append(self._file.tell())
        self._file.write(json.dumps(values).encode() + b"\n")

    def of(self, image_id: int) -> Iterator[Any]:
        """The values of an image."""
        for place in self._places.get(image_id, ()):
            self._file.seek(place)
            yield from json.loads(self._file.readline())
