"""The content of a detections file, in its own images and names, and its faults, in any format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.evaluation.relations import Flags, Integers, Relations

EXPECTED = (
    "detections: the table of `rlip predict` as .parquet, JSON with one image per line or in a list {image_id, uri, "
    "boxes, pairs}, a JSON list of pairs {image, box_h, box_o, object_coco80, verb, score}, or a JSON list of images "
    "{boxes, labels, verb_scores, sub_ids, obj_ids} with image_id or file_name"
)
"""The formats, for messages about other files."""


class DetectionsContent:
    """The content of one file, which the reader of its format gathers in batches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Callable[[Relations], Flags] | None = None
        """Marks the pairs of some whole images that can count. Others are forgotten; None: nothing is."""
        self.images: list[tuple[int | None, str | None]] = []
        """Id and file name of each image, if the file states them."""
        self.sizes: list[tuple[float, float]] = []
        """Width and height of each image; NaN where the file does not state them."""
        self.objects: dict[str, int] = {}
        self.predicates: dict[str, int] = {}
        """The code of each name."""
        self.parts: list[Relations] = []
        """The pairs, with the places of images in the file, and codes of names."""
        self.every_score = False
        """Whether the file has the scores of all predicates, so that the best of an image were chosen from all."""
        self.faults = Faults()

    def add(self, part: Relations) -> None:
        """Adds the pairs of some images."""
        self.parts.append(part if self.counts is None else part.take(self.counts(part)))

    def note(self, reason: str, positions: Integers, rows: Integers, values: NDArray[Any] | None = None) -> None:
        """Counts faults at some positions of columns; `rows` are the images and `values` the faulty values."""
        examples = (
            self.image_name(int(rows[position])) + ("" if values is None else f" {values[position]:g}")
            for position in positions.tolist()
        )
        self.faults.add(reason, len(positions), examples)

    def image_name(self, row: int) -> str:
        """The file name of an image, else its id, else its place in the file."""
        image_id, uri = self.images[row]
        return uri or (f"image {row}" if image_id is None else str(image_id))


EXAMPLES = 3


@dataclass(frozen=True)
class Fault:
    """One kind of fault: its reason, how many cases there are, and some of them."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.reason}: {self.count:,} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class DetectionFindings:
    """What was read from a file of detections, and which faulty rows were excluded."""

    path: Path
    images: int
    """Images in the file"""
    relations: int
    """Relations that are scored"""
    faults: tuple[Fault, ...] = ()
    """What was excluded"""
    noted: tuple[Fault, ...] = ()
    """What is odd and scored anyway"""
    missing: Fault | None = None
    """Images of the ground truth that the file lacks; they count as images without detections"""

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.images:,} images, {self.relations:,} relations are scored"]
        lines += [f"excluded: {fault}" for fault in self.faults]
        lines += [f"scored anyway: {fault}" for fault in self.noted]
        return "\n  ".join([*lines, *([str(self.missing)] if self.missing else [])])


class Faults(dict[str, Fault]):
    """Collects faults by reason."""

    def add(self, reason: str, count: int, examples: Iterable[str]) -> None:
        """Counts cases of a reason and keeps the first few; 0 adds nothing."""
        if count:
            before = self.get(reason, Fault(reason, 0, ()))
            kept = (*before.examples, *islice(examples, EXAMPLES - len(before.examples)))
            self[reason] = Fault(reason, before.count + count, kept)
