"""What a file of detections holds, in its own images and names, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.detections.findings import Faults
from pipeline.evaluation.interactions import Floats, Integers

EXPECTED = (
    "detections: our table as .parquet, JSON with one image a line or in a list {image_id, uri, boxes, pairs}, a JSON list of "
    "pairs {image, box_h, box_o, object_coco80, verb, score}, or a JSON list of images {boxes, labels, verb_scores, sub_ids, "
    "obj_ids} with image_id or file_name, or in the order of the ground truth"
)
"""The formats, for messages about files of another kind."""


@dataclass
class DetectionColumns:
    """P pairs and B boxes as columns. Boxes are (left, top, right, bottom); codes count the names met so far."""

    row: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    """P: the place of each pair's image in the file"""
    subject_boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    object_boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    """P×4; NaN for an interaction without an object"""
    subjects: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    objects: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    predicates: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    """P codes; `NO_OBJECT` for an interaction without an object"""
    scores: Floats = field(default_factory=lambda: np.zeros(0))
    box_row: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    """B: the place of each box's image in the file"""
    boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    labels: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    box_scores: Floats = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def joined(cls, parts: Sequence[DetectionColumns]) -> DetectionColumns:
        """All parts, in their order."""
        names = [each.name for each in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in (cls(), *parts)]) for name in names})


class DetectionsContent:
    """The content of one file, which the reader of its format gathers in batches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[tuple[int | None, str | None]] = []
        """Id and file name of each image, as far as the file states them."""
        self.sizes: list[tuple[float, float]] = []
        """Width and height of each image; NaN where the file does not state them."""
        self.objects: dict[str, int] = {}
        self.predicates: dict[str, int] = {}
        """The code of each name."""
        self.parts: list[DetectionColumns] = []
        self.faults = Faults()
        self.positional = False
        """Whether the images are those of the ground truth, in its order."""

    def note(self, reason: str, positions: Integers, rows: Integers, values: NDArray[Any] | None = None) -> None:
        """Counts faults at some positions of columns, of which `rows` are the images and `values` the faulty values."""
        examples = (
            self.image_name(int(rows[position])) + ("" if values is None else f" {values[position]:g}")
            for position in positions.tolist()
        )
        self.faults.add(reason, len(positions), examples)

    def image_name(self, row: int) -> str:
        """The file name of an image, else its id, else its place in the file."""
        image_id, uri = self.images[row]
        return uri or (f"image {row}" if image_id is None else str(image_id))
