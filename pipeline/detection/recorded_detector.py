"""Boxes that another tool found and wrote to a file: COCO's instances layout, with a score for each annotation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.datasets.annotations import as_id, shown
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.datasets.record import Box, ImageRecord
from pipeline.data.datasets.validate import box_doubts
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import DetectorFiles
from pipeline.evaluation.detection import Detections
from storage.errors import FatalError

EXPECTED = (
    "COCO instances with scores: images {id, file_name}, annotations {image_id, category_id, bbox, score}, categories "
    "{id, name}; pycocotools joins results with them: COCO(instances).loadRes(results).dataset"
)


class RecordedDetector:
    """The boxes of a file. Images are found by their file name, where either side may have more folders before it."""

    def __init__(self, files: DetectorFiles, settings: DetectSettings, worker: int) -> None:
        """Raises `FatalError` for another kind of file, or an entry that lacks a field or refers to a missing entry."""
        path, ids = files.place, defaultdict[str, set[Any]](set)
        endings: dict[str, set[Any]] = defaultdict(set)
        sizes: dict[Any, tuple[int | None, int | None]] = {}
        names: dict[int, str] = {}
        rows: dict[Any, list[tuple[float, float, float, float, int, float]]] = defaultdict(list)
        for kind, entry in stream_lists(path, EXPECTED, ("images", "annotations", "categories")):
            try:
                if kind == "images":
                    name, image_id = str(entry["file_name"]).replace("\\", "/"), _id(entry["id"])
                    sizes[image_id] = as_id(entry.get("width")), as_id(entry.get("height"))
                    ids[name].add(image_id)
                    for ending in _endings(name):
                        endings[ending].add(image_id)
                elif kind == "categories":
                    names[_id(entry["id"])] = str(entry["name"])
                else:
                    x, y, w, h = map(float, entry["bbox"])
                    row = (x, y, x + w, y + h, _id(entry["category_id"]), float(entry["score"]))
                    rows[_id(entry["image_id"])].append(row)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise FatalError(f"detector {path}: {kind} contain {shown(entry)}; expected {EXPECTED}") from None
        if unknown := {row[4] for found in rows.values() for row in found} - names.keys():
            raise FatalError(
                f"detector {path}: categories lack the ids {sorted(unknown, key=str)[:5]}; expected {EXPECTED}"
            )
        if unlisted := rows.keys() - sizes.keys():
            raise FatalError(f"detector {path}: images lack the ids {list(unlisted)[:5]}; expected {EXPECTED}")
        self._path, self._ids, self._endings, self._sizes, self._rows = path, ids, endings, sizes, rows
        self._labels = {category: label for label, category in enumerate(names)}
        self.names = tuple(names.values())

    def of(self, images: Sequence[Image.Image], uris: Sequence[str]) -> list[Detections]:
        """Returns the boxes of images by file name. Raises `FatalError` for an image that the file does not list, lists
        several times or with another size."""
        return [self._of(image.size, uri) for image, uri in zip(images, uris, strict=True)]

    def require_apart(self, images: Iterable[tuple[str, str]]) -> None:
        """Raises `FatalError` if two images, by dataset and file name, take the boxes of one that the file lists."""
        taken: dict[Any, tuple[str, str]] = {}
        for image in images:
            if (other := taken.setdefault(self._listed(image[1]), image)) != image:
                names = " and ".join(repr("/".join(each)) for each in (other, image))
                raise FatalError(
                    f"detector {self._path}: lists one image for {names}; list each, with its folders, or detect "
                    "datasets with the same file names in separate runs"
                )

    def doubts(self) -> str:
        """Signs that the boxes are not x, y, width and height in pixels; "" if there are none."""
        records = (
            ImageRecord("", "", 0, Path(), *self._sizes[key], tuple(Box.between("", row[:4]) for row in rows))
            for key, rows in self._rows.items()
        )
        return box_doubts(f"detector {self._path}", records) if self._rows else ""

    def _listed(self, uri: str) -> Any:
        """The id of the image that the file lists under a name."""
        shorter = (self._ids.get(ending) for ending in _endings(uri))
        found = self._ids.get(uri) or self._endings.get(uri) or next(filter(None, shorter), ())
        if not found:
            raise FatalError(f"detector {self._path}: lists no image {uri!r}; detect its boxes, or remove the image")
        if len(found) > 1:
            raise FatalError(f"detector {self._path}: lists {len(found)} images {uri!r}; give their file names folders")
        (image_id,) = found
        return image_id

    def _of(self, size: tuple[int, int], uri: str) -> Detections:
        image_id = self._listed(uri)
        stated = self._sizes[image_id]
        if all(stated) and stated != size:
            raise FatalError(
                f"detector {self._path}: image {uri!r} has {stated[0]}x{stated[1]} pixels there, but "
                f"{size[0]}x{size[1]} as it is read here, upright; detect its boxes in such images"
            )
        rows = self._rows.get(image_id, ())
        boxes = np.array([row[:4] for row in rows], np.float64).reshape(-1, 4)
        labels = np.array([self._labels[row[4]] for row in rows], np.int64)
        return Detections(boxes, labels, np.array([row[5] for row in rows], np.float64))


def _endings(name: str) -> list[str]:
    """A file name with ever fewer of its folders."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _id(value: Any) -> Any:
    """An id that counts as equal whether it is written as a number or text. Raises TypeError for a list or object."""
    hash(value)
    return value if (number := as_id(value)) is None else number
