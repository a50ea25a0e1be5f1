"""Geometry and colours of images with boxes and arrows, which pages and contact sheets render."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Point = tuple[float, float]
Line = tuple[float, float, float, float]
"""x1, y1, x2, y2"""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#5b3fb5", "#b3002d", "#00707a")
"""Dark enough for white text. Neighbouring colours differ for colour-blind readers as well (after Okabe and Ito)."""
IDLE = "#9a9a9a"
"""Colour of a box without a relation."""
INK, PAPER = "#1a1a1a", "#ffffff"


class Rect(NamedTuple):
    """A box or the background of a text: upper left corner, width and height."""

    x: float
    y: float
    w: float
    h: float

    @property
    def corners(self) -> Line:
        """Left, top, right, bottom."""
        return self.x, self.y, self.x + self.w, self.y + self.h

    @property
    def centre(self) -> Point:
        """The centre, rounded to a tenth of a unit."""
        return round(self.x + self.w / 2, 1), round(self.y + self.h / 2, 1)

    def scaled(self, by: float) -> Rect:
        """The box in an image scaled by `by`, rounded to a tenth of a unit."""
        return Rect(*(round(value * by, 1) for value in self))

    def inset(self) -> Rect:
        """A slightly smaller box, for a second outline inside the first."""
        by = min(7.0, self.w / 4, self.h / 4)
        return Rect(*(round(value, 1) for value in (self.x + by, self.y + by, self.w - 2 * by, self.h - 2 * by)))

    def within(self, width: float, height: float) -> Rect:
        """The part inside an image of this size. Boxes of damaged labels may be inverted or outside."""
        # `max` with 0 first turns a NaN into 0; Pillow would draw billions of rows.
        x, right = sorted(min(max(0.0, edge), width - 1.0) for edge in (self.x, self.x + self.w))
        y, bottom = sorted(min(max(0.0, edge), height - 1.0) for edge in (self.y, self.y + self.h))
        return Rect(x, y, right - x, bottom - y)

    def moved_into(self, width: float, height: float) -> Rect:
        """The box moved into an image of this size. One that is too large starts at the image's edge."""
        return self._replace(x=max(0.0, min(self.x, width - self.w)), y=max(0.0, min(self.y, height - self.h)))

    def overlaps(self, other: Rect) -> bool:
        """Whether the two boxes share more than an edge."""
        across = self.x < other.x + other.w and other.x < self.x + self.w
        return across and self.y < other.y + other.h and other.y < self.y + self.h


def first_free(places: Iterable[Rect], taken: Sequence[Rect]) -> Rect | None:
    """The first place that overlaps no taken one; None if all do."""
    return next((place for place in places if not any(map(place.overlaps, taken))), None)


def name_places(named: Iterable[tuple[str, Rect]], letters: float, width: float, height: float) -> list[Rect]:
    """Where to write the names of boxes: each at a corner of its box that no earlier name covers, if there is one.

    `named`: names and boxes; `letters`: size of the bold font; `width` and `height`: of the image, holding all names.
    """
    places: list[Rect] = []
    for name, box in named:
        across, down, margin = letters * 0.62 * len(name), letters * 1.1, letters / 6
        right, bottom = box.x + box.w - across - margin, box.y + box.h - down
        corners = [(x, y) for y in (box.y + margin, bottom) for x in (box.x + margin, right)]
        inside = [Rect(x, y, across, down).moved_into(width, height).scaled(1) for x, y in corners]
        places.append(first_free(inside, places) or inside[0])
    return places


@dataclass(frozen=True)
class Drawing:
    """Boxes with their names, and lines between them, over an image of this width and height, in any units."""

    width: int
    height: int
    letters: float
    """Font size of the names."""
    outlines: tuple[tuple[Rect, str], ...]
    """Boxes and their styles, those below first."""
    names: tuple[tuple[str, Rect], ...]
    """Of boxes, each with its place."""
    lines: tuple[tuple[Line, str], ...] = ()
    """Lines and their styles."""

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        letters: float,
        outlines: Iterable[tuple[Rect, str]],
        named: Sequence[tuple[str, Rect]],
        lines: Iterable[tuple[Line, str]] = (),
    ) -> Drawing:
        """Places the names of boxes."""
        places = zip((name for name, _ in named), name_places(named, letters, *size), strict=True)
        return cls(*size, letters, tuple(outlines), tuple(places), tuple(lines))


def along(line: Line, share: float) -> Point:
    """The point at a share of the line's length."""
    x1, y1, x2, y2 = line
    return x1 + (x2 - x1) * share, y1 + (y2 - y1) * share


def beside(start: Point, end: Point, distance: float) -> Line:
    """The line from start to end, moved to its right to make room for a line in the other direction."""
    length = math.dist(start, end) or 1.0
    across, down = (start[1] - end[1]) / length * distance, (end[0] - start[0]) / length * distance
    moved = start[0] + across, start[1] + down, end[0] + across, end[1] + down
    return round(moved[0], 1), round(moved[1], 1), round(moved[2], 1), round(moved[3], 1)


def arrow_head(line: Line, length: float) -> tuple[Point, Point, Point]:
    """The tip of an arrow and the ends of its wings, which are `length` long."""
    x1, y1, x2, y2 = line
    angle = math.atan2(y2 - y1, x2 - x1)
    left, right = (
        (x2 - length * math.cos(angle + turn), y2 - length * math.sin(angle + turn)) for turn in (0.45, -0.45)
    )
    return (x2, y2), left, right
