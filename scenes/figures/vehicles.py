"""Draws vehicles from the side, around x = 0 and standing on y = 0."""

from scenes.colours import shaded
from scenes.ink import Colour, Pen

TYRE: Colour = (35, 35, 38)
GLASS: Colour = (185, 220, 235)
METAL: Colour = (170, 172, 178)


def _wheel(pen: Pen, x: float, radius: float) -> None:
    pen.ellipse(x, radius, radius, radius, TYRE)
    pen.ellipse(x, radius, radius * 0.5, radius * 0.5, METAL)


def car(pen: Pen, colour: Colour) -> None:
    """A car."""
    pen.polygon([(-0.3, 0.3), (-0.2, 0.5), (0.16, 0.5), (0.32, 0.3)], shaded(colour, 0.85))
    pen.polygon([(-0.25, 0.31), (-0.17, 0.46), (-0.03, 0.46), (-0.03, 0.31)], GLASS)
    pen.polygon([(0.02, 0.31), (0.02, 0.46), (0.14, 0.46), (0.26, 0.31)], GLASS)
    pen.polygon([(-0.56, 0.1), (-0.56, 0.29), (0.36, 0.31), (0.55, 0.25), (0.56, 0.1)], colour)
    pen.ellipse(0.52, 0.21, 0.035, 0.035, (255, 240, 160))
    pen.rect(-0.56, 0.19, -0.52, 0.26, (190, 30, 30))
    _wheel(pen, -0.33, 0.115)
    _wheel(pen, 0.33, 0.115)


def bus(pen: Pen, colour: Colour) -> None:
    """A bus."""
    pen.rect(-0.72, 0.1, 0.72, 0.74, colour)
    pen.rect(-0.72, 0.7, 0.72, 0.76, shaded(colour, 0.7))
    for i in range(5):
        pen.rect(-0.66 + 0.24 * i, 0.43, -0.48 + 0.24 * i, 0.65, GLASS)
    pen.rect(0.54, 0.16, 0.68, 0.65, GLASS)
    pen.rect(-0.72, 0.3, 0.5, 0.35, (245, 245, 240))
    _wheel(pen, -0.45, 0.12)
    _wheel(pen, 0.4, 0.12)


def bicycle(pen: Pen, colour: Colour) -> tuple[float, float]:
    """A bicycle. Returns the heights of its saddle and handlebar."""
    for x in (-0.27, 0.27):
        pen.ring(x, 0.19, 0.19, 0.032, TYRE)
        pen.ellipse(x, 0.19, 0.03, 0.03, METAL)
    pen.line([(-0.27, 0.19), (-0.1, 0.4), (0.19, 0.4), (0.0, 0.17), (-0.27, 0.19)], 0.035, colour)
    pen.line([(-0.12, 0.45), (0.0, 0.17)], 0.035, colour)
    pen.line([(0.27, 0.19), (0.18, 0.5), (0.11, 0.52)], 0.035, colour)
    pen.line([(-0.2, 0.46), (-0.06, 0.46)], 0.05, (40, 35, 35))
    pen.ellipse(0.0, 0.17, 0.04, 0.04, METAL)
    return 0.47, 0.51


def motorcycle(pen: Pen, colour: Colour) -> tuple[float, float]:
    """A motorcycle. Returns the heights of its saddle and handlebar."""
    for x in (-0.31, 0.31):
        pen.ellipse(x, 0.155, 0.155, 0.155, TYRE)
        pen.ellipse(x, 0.155, 0.07, 0.07, METAL)
    pen.polygon([(-0.2, 0.14), (-0.17, 0.3), (0.14, 0.3), (0.12, 0.12)], (90, 92, 98))
    pen.polygon([(-0.42, 0.37), (-0.3, 0.3), (0.0, 0.27), (0.05, 0.36), (-0.2, 0.4)], (45, 40, 42))
    pen.ellipse(0.09, 0.36, 0.15, 0.085, colour)
    pen.polygon([(-0.47, 0.32), (-0.2, 0.34), (-0.2, 0.27), (-0.4, 0.27)], colour)
    pen.line([(0.31, 0.155), (0.2, 0.48), (0.12, 0.5)], 0.05, METAL)
    pen.ellipse(0.28, 0.41, 0.06, 0.06, (255, 240, 170))
    pen.line([(-0.05, 0.1), (-0.46, 0.13)], 0.05, METAL)
    return 0.38, 0.5


def skateboard(pen: Pen, colour: Colour) -> None:
    """A skateboard."""
    for x in (-0.2, 0.2):
        pen.ellipse(x, 0.045, 0.048, 0.045, TYRE)
    pen.line([(-0.38, 0.15), (-0.28, 0.105), (0.28, 0.105), (0.38, 0.15)], 0.055, colour)
