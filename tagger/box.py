"""An annotated bounding box of an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Box:
    """A bounding box in absolute pixels of the original image: top-left corner (x, y), size (w, h)."""

    category: str
    x: float
    y: float
    w: float
    h: float
    crowd: bool = False


def boxes_of(row: Mapping[str, Any]) -> list[Box]:
    """The boxes in a row of table `images`."""
    return [Box(b["category"], b["x"], b["y"], b["w"], b["h"], b["crowd"]) for b in row["boxes"]]


def intersect(one: Box, other: Box) -> bool:
    """Whether two boxes share some area: the authors' overlap prior (docs/labels.md, Other ways to candidates)."""
    apart_x = abs(one.x + one.w / 2 - other.x - other.w / 2)
    apart_y = abs(one.y + one.h / 2 - other.y - other.h / 2)
    return apart_x < (one.w + other.w) / 2 and apart_y < (one.h + other.h) / 2
