"""What an annotation file in COCO's layout states beyond the store's tables, read again for an export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import AnnotationError, as_id, readable
from pipeline.data.datasets.coco import EXPECTED
from pipeline.data.datasets.json_stream import stream_members
from storage.runs import Run

_FORMATS = ("coco", "objects365")
_IN_TABLES = {
    "images": frozenset({"id", "file_name", "width", "height"}),
    "annotations": frozenset({"id", "image_id", "category_id", "bbox", "iscrowd"}),
    "categories": frozenset({"id", "name"}),
}
"""List of the file → the fields that exports take from the store."""
_EMPTY: tuple[Any, ...] = (None, "", [], {})


class AnnotationFile:
    """The further fields of images, boxes and categories, such as licenses, outlines and supercategories.

    Texts of images and boxes wait on disk: COCO's outlines take a gigabyte in memory.
    """

    def __init__(self, path: Path | None) -> None:
        """Without a file nothing is known, and of one that changed only what stands before its first error."""
        self.header: dict[str, Any] = {}
        """`info` and `licenses`, if the file states them."""
        self.is_damaged = False
        """Whether the file could not be read to its end."""
        self.unwritable = 0
        """Number of entries whose further fields no JSON can hold, such as NaN."""
        self._categories: dict[str, dict[str, Any]] = {}
        self._texts = TemporaryFile()  # noqa: SIM115 - `close` closes it
        places: dict[str, list[tuple[int, int, int]]] = {"images": [], "annotations": []}
        for name, value in self._members(path) if path is not None else ():
            if name == "info" and self._text(value):
                self.header["info"] = value
            elif name == "licenses" and self._text(value):
                self.header.setdefault("licenses", []).append(value)
            elif name in _IN_TABLES and isinstance(value, dict):
                self._keep(name, value, places)
        self._places: dict[str, NDArray[np.int64]] = {
            name: np.array(sorted(found), np.int64).reshape(-1, 3) for name, found in places.items()
        }

    def image(self, image_id: int) -> dict[str, Any]:
        """The further fields of an image; none if it is unknown."""
        return self._find("images", image_id)

    def annotation(self, annotation_id: int) -> dict[str, Any]:
        """The further fields of a box; none if it is unknown."""
        return self._find("annotations", annotation_id)

    def category(self, name: str) -> dict[str, Any]:
        """The further fields of a category; none if it is unknown."""
        return self._categories.get(name, {})

    def close(self) -> None:
        """Remove the texts from disk."""
        self._texts.close()

    def _keep(self, name: str, entry: dict[str, Any], places: dict[str, list[tuple[int, int, int]]]) -> None:
        further = {
            field: value for field, value in entry.items() if field not in _IN_TABLES[name] and value not in _EMPTY
        }
        number = as_id(entry.get("id"))
        if not further or number is None or not (text := self._text(further)):
            return
        if name == "categories":
            self._categories[readable(str(entry.get("name"))).strip()] = further
        else:
            places[name].append((number, self._texts.tell(), self._texts.write(text)))

    def _text(self, value: Any) -> bytes:
        """The value as JSON in UTF-8; empty for one that can't be written so, which is counted."""
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            self.unwritable += 1
            return b""

    def _find(self, name: str, number: int) -> dict[str, Any]:
        places = self._places[name]
        row = int(np.searchsorted(places[:, 0], number))
        if row == len(places) or places[row, 0] != number:
            return {}
        self._texts.seek(int(places[row, 1]))
        found: dict[str, Any] = json.loads(self._texts.read(int(places[row, 2])))
        return found

    def _members(self, path: Path) -> Iterator[tuple[str, Any]]:
        try:
            yield from stream_members(path, EXPECTED)
        except AnnotationError:
            self.is_damaged = True


def annotation_file(run: Run, dataset: str) -> Path | None:
    """The annotation file that a dataset of a run was read from, if the run's recipe names one in COCO's layout."""
    data = run.read_document("recipe").get("data", {})
    for source in data.get("sources", ()):
        if source.get("name") == dataset and source.get("format") in _FORMATS:
            return Path(data.get("root", "."), source["annotations"])
    return None
