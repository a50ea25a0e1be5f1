"""Boxes that another tool found and wrote to a file: COCO's instances layout, with a score for each annotation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.data.datasets.annotations import shown
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import DetectorFiles
from pipeline.evaluation.detection import Detections
from storage.errors import FatalError

EXPECTED = (
    "COCO instances with scores: images {id, file_name}, annotations {image_id, category_id, bbox, score}, categories {id, "
    "name}; pycocotools joins results with them: COCO(instances).loadRes(results).dataset"
)


class RecordedDetector:
    """The boxes of a file. Images are found by their file name, with or without its folder."""

    def __init__(self, path: Path) -> None:
        """Raises `FatalError` for a file of another kind, or an entry that lacks a field."""
        ids: dict[str, int] = {}
        names: dict[int, str] = {}
        rows: dict[int, list[tuple[float, float, float, float, int, float]]] = defaultdict(list)
        for kind, entry in stream_lists(path, EXPECTED, ("images", "annotations", "categories")):
            try:
                if kind == "images":
                    ids[str(entry["file_name"])] = ids[str(entry["file_name"]).rpartition("/")[2]] = entry["id"]
                elif kind == "categories":
                    names[entry["id"]] = str(entry["name"])
                else:
                    x, y, w, h = map(float, entry["bbox"])
                    row = (x, y, x + w, y + h, entry["category_id"], float(entry["score"]))
                    rows[entry["image_id"]].append(row)
            except (KeyError, TypeError, ValueError):
                raise FatalError(f"detector {path}: {kind} contain {shown(entry)}; expected {EXPECTED}") from None
        if unknown := {row[4] for found in rows.values() for row in found} - names.keys():
            raise FatalError(f"detector {path}: categories lack the ids {sorted(unknown)[:5]}; expected {EXPECTED}")
        self._path, self._ids, self._rows = path, ids, rows
        self._labels = {category: label for label, category in enumerate(names)}
        self.names = tuple(names.values())

    @classmethod
    def open(cls, files: DetectorFiles, settings: DetectSettings, worker: int) -> Self:
        """Reads the file. Raises `FatalError` as the constructor does."""
        return cls(files.place)

    def of(self, uris: Sequence[str]) -> list[Detections]:
        """Returns the boxes of images by file name. Raises `FatalError` for an image that the file does not list."""
        return [self._of(uri) for uri in uris]

    def _of(self, uri: str) -> Detections:
        image_id = self._ids.get(uri, self._ids.get(uri.rpartition("/")[2]))
        if image_id is None:
            raise FatalError(f"detector {self._path}: lists no image {uri!r}; detect its boxes, or remove the image")
        rows = self._rows.get(image_id, ())
        boxes = np.array([row[:4] for row in rows], np.float64).reshape(-1, 4)
        labels = np.array([self._labels[row[4]] for row in rows], np.int64)
        return Detections(boxes, labels, np.array([row[5] for row in rows], np.float64))
