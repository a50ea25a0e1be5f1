"""The record of one image that a reader yields: boxes and relations as its dataset annotates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.data.images.refs import ImageRef
from pipeline.runtime.stage import Rejected


class Box(NamedTuple):
    """One annotated box: top-left corner and size in absolute raw pixels, not yet checked against the image."""

    category: str
    x: float
    y: float
    w: float
    h: float
    crowd: bool = False
    source_id: int = -1
    """Id of the box in its dataset; -1 if it has none."""

    @classmethod
    def between(cls, category: str, corners: Sequence[float], source_id: int = -1) -> Box:
        """The box between two corners: x1, y1, x2, y2."""
        x1, y1, x2, y2 = corners
        return cls(category, x1, y1, x2 - x1, y2 - y1, False, source_id)

    def written(self) -> str:
        """Formats the box for quarantine."""
        return f"{self.category} [{self.x:g}, {self.y:g}, {self.w:g}, {self.h:g}]"[:200]


NO_OBJECT = -1
"""`AnnotatedRelation.object` of a relation without an object."""


class AnnotatedRelation(NamedTuple):
    """A relation of the ground truth; `subject` and `object` are indices into the record's boxes."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class ImageRecord:
    """One image as its dataset describes it. `rejects` holds what the reader rejected of it."""

    dataset: str
    split: str
    image_id: int
    path: ImageRef
    width: int | None = None
    """Declared width in pixels; None if the dataset does not state it."""
    height: int | None = None
    boxes: tuple[Box, ...] = ()
    relations: tuple[AnnotatedRelation, ...] = ()
    rejects: tuple[Rejected, ...] = ()
    unpublished: bool = False
    """Whether the dataset lists the image without its file ever having been published."""


def overlap(a: Box, b: Box, pixel: float = 0.0) -> float:
    """Intersection over union of two boxes. `pixel` = 1 follows the convention that a box includes its last pixel."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x) + pixel
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y) + pixel
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    union = (a.w + pixel) * (a.h + pixel) + (b.w + pixel) * (b.h + pixel) - shared
    return shared / union if union > 0 else 0.0
