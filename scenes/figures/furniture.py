"""Draws furniture around x = 0, standing on y = 0. SURFACES lists where other figures can sit or rest."""

from scenes.colours import shaded
from scenes.ink import Colour, Pen

SURFACES: dict[str, tuple[float, float, float]] = {
    "chair": (-0.17, 0.15, 0.32),
    "bench": (-0.55, 0.55, 0.3),
    "couch": (-0.44, 0.44, 0.27),
    "bed": (-0.5, 0.66, 0.3),
    "dining table": (-0.5, 0.5, 0.46),
}
"""Furniture -> (left, right, height) of its surface."""


def chair(pen: Pen, colour: Colour) -> None:
    """A chair from the side, facing ahead."""
    dark = shaded(colour, 0.75)
    for x in (-0.16, 0.14):
        pen.line([(x, 0.3), (x, 0.0)], 0.05, dark)
    pen.rect(-0.2, 0.25, 0.18, 0.32, colour)
    pen.rect(-0.22, 0.25, -0.15, 0.75, colour)


def bench(pen: Pen, colour: Colour) -> None:
    """A bench with a slatted back, from the front."""
    dark = shaded(colour, 0.7)
    for x in (-0.48, 0.48):
        pen.rect(x - 0.035, 0.0, x + 0.035, 0.58, dark)
    for y in (0.37, 0.5):
        pen.rect(-0.56, y, 0.56, y + 0.085, colour)
    pen.rect(-0.58, 0.24, 0.58, 0.3, shaded(colour, 1.15))


def couch(pen: Pen, colour: Colour) -> None:
    """A couch from the front."""
    dark = shaded(colour, 0.78)
    for x in (-0.5, 0.5):
        pen.rect(x - 0.04, 0.0, x + 0.04, 0.06, (60, 45, 35))
    pen.rect(-0.5, 0.2, 0.5, 0.6, colour)
    pen.line([(0, 0.3), (0, 0.6)], 0.02, dark)
    pen.rect(-0.5, 0.05, 0.5, 0.27, shaded(colour, 1.12))
    pen.line([(0, 0.06), (0, 0.26)], 0.02, dark)
    for x in (-0.53, 0.53):
        pen.rect(x - 0.085, 0.05, x + 0.085, 0.38, dark)
        pen.ellipse(x, 0.38, 0.085, 0.06, dark)


def bed(pen: Pen, colour: Colour) -> None:
    """A bed from the side, with its head end behind."""
    wood = (125, 85, 50)
    pen.rect(-0.7, 0.0, -0.62, 0.62, wood)
    pen.rect(0.66, 0.0, 0.73, 0.4, wood)
    pen.rect(-0.64, 0.08, 0.68, 0.18, wood)
    pen.rect(-0.62, 0.17, 0.66, 0.3, (245, 243, 238))
    pen.rect(-0.22, 0.12, 0.66, 0.3, colour)
    pen.ellipse(-0.47, 0.33, 0.14, 0.055, (252, 252, 252))


def dining_table(pen: Pen, colour: Colour) -> None:
    """A table from the front, with room beneath."""
    dark = shaded(colour, 0.75)
    for x in (-0.45, 0.45):
        pen.rect(x - 0.035, 0.0, x + 0.035, 0.4, dark)
    pen.rect(-0.54, 0.385, 0.54, 0.46, colour)
