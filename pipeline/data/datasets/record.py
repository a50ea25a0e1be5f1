"""What a reader yields: one image with its boxes and given relations, as the annotation files state them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.data.images.refs import ImageRef
from pipeline.runtime.stage import Rejected


class Box(NamedTuple):
    """One annotated box: absolute raw pixels, top-left corner and size, not yet checked against the image."""

    category: str
    x: float
    y: float
    w: float
    h: float
    crowd: bool = False
    source_id: int = -1
    """The id of the box in its data set, -1 where it has none."""

    def written(self) -> str:
        """The box as quarantine shows it."""
        return f"{self.category} [{self.x:g}, {self.y:g}, {self.w:g}, {self.h:g}]"[:200]


class GivenRelation(NamedTuple):
    """A relation that the data set states: indices into the record's boxes."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class ImageRecord:
    """One image as its data set describes it; `rejects` holds what the reader had to leave out of it."""

    dataset: str
    split: str
    image_id: int
    path: ImageRef
    width: int | None = None
    """Declared width in pixels; None where the data set does not say."""
    height: int | None = None
    boxes: tuple[Box, ...] = ()
    relations: tuple[GivenRelation, ...] = ()
    rejects: tuple[Rejected, ...] = ()
    unpublished: bool = False
    """The data set lists the image, but nobody ever got the file."""


def overlap(a: Box, b: Box, pixel: float = 0.0) -> float:
    """Intersection over union; `pixel` = 1 for the convention that a box includes its last pixel."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x) + pixel
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y) + pixel
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    union = (a.w + pixel) * (a.h + pixel) + (b.w + pixel) * (b.h + pixel) - shared
    return shared / union if union > 0 else 0.0
