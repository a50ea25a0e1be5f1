"""Strokes, the basic shapes of all figures, a pen that places them, and colours.

Figures have their own coordinates: x in the direction that they face, y upwards from the ground. A `Pen` moves, scales
and mirrors them. Strokes in the image are in pixels, y downwards.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Stroke(NamedTuple):
    """One shape. `kind` is ellipse, ring (an ellipse's outline), polygon or line; `width` applies to ring and line."""

    kind: str
    points: tuple[float, ...]
    colour: Colour
    width: float = 0.0

    def moved(self, x: float, y: float, scale: float) -> "Stroke":
        """Maps each point to (x + scale * px, y - scale * py), which turns y upwards to y downwards."""
        p = self.points
        moved = [0.0] * len(p)
        moved[0::2] = [x + scale * v for v in p[0::2]]
        moved[1::2] = [y - scale * v for v in p[1::2]]
        return Stroke(self.kind, tuple(moved), self.colour, self.width * scale)

    def shifted(self, dx: float) -> "Stroke":
        """Returns the shape moved by dx along x."""
        p = self.points
        return Stroke(self.kind, tuple(v + dx if i % 2 == 0 else v for i, v in enumerate(p)), self.colour, self.width)

    def extent(self) -> tuple[float, float, float, float]:
        """Returns the bounding box (x0, y0, x1, y1). It includes the width of a line."""
        half = self.width / 2 if self.kind == "line" else 0.0
        xs, ys = self.points[0::2], self.points[1::2]
        return min(xs) - half, min(ys) - half, max(xs) + half, max(ys) + half


@dataclass
class Pen:
    """Appends one object's strokes to a shared list, placed at (x, y), scaled, and facing right (1) or left (-1)."""

    strokes: list[tuple[int, Stroke]]
    owner: int
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    facing: int = 1

    def _put(self, kind: str, points: Iterable[float], colour: Colour, width: float = 0.0) -> None:
        p = list(points)
        s, f = self.scale, self.facing
        p[0::2] = [self.x + f * s * v for v in p[0::2]]
        p[1::2] = [self.y + s * v for v in p[1::2]]
        self.strokes.append((self.owner, Stroke(kind, tuple(p), colour, width * s)))

    def place(self, x: float, y: float) -> Point:
        """Converts a point of the figure to the group's coordinates."""
        return self.x + self.facing * self.scale * x, self.y + self.scale * y

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Draws a filled ellipse around (x, y)."""
        self._put("ellipse", (x - rx, y - ry, x + rx, y + ry), colour)

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        """Draws a circle around (x, y). Its line lies inside the radius."""
        self._put("ring", (x - radius, y - radius, x + radius, y + radius), colour, width)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Draws a filled rectangle between two corners."""
        self._put("polygon", (x0, y0, x1, y0, x1, y1, x0, y1), colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Draws a filled polygon."""
        self._put("polygon", [v for point in points for v in point], colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draws a line with round ends."""
        self._put("line", [v for point in points for v in point], colour, width)


NAMED: dict[str, Colour] = {
    "red": (205, 45, 45),
    "blue": (50, 90, 200),
    "green": (50, 145, 70),
    "yellow": (235, 200, 50),
    "orange": (235, 130, 40),
    "purple": (130, 70, 165),
    "pink": (235, 130, 170),
    "white": (238, 238, 234),
    "black": (42, 42, 48),
    "gray": (135, 138, 145),
    "brown": (130, 80, 45),
}

SKIN: tuple[Colour, ...] = ((245, 205, 170), (225, 170, 130), (165, 110, 75), (110, 72, 50))
HAIR: tuple[Colour, ...] = ((45, 35, 30), (110, 70, 35), (215, 175, 90), (90, 90, 95))


def shaded(colour: Colour, factor: float) -> Colour:
    """Darkens (factor < 1) or lightens (factor > 1) a colour."""
    r, g, b = (max(0, min(255, round(v * factor))) for v in colour)
    return r, g, b


def varied(rng: Random, colour: Colour, spread: int = 14) -> Colour:
    """Changes each channel of a colour by a random amount of at most `spread`."""
    r, g, b = (max(0, min(255, v + rng.randint(-spread, spread))) for v in colour)
    return r, g, b
