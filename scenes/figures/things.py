"""Draws things to hold, carry, wear or put down, around x = 0 and resting on y = 0 unless stated otherwise."""

from scenes.colours import shaded
from scenes.ink import Colour, Pen


def umbrella(pen: Pen, colour: Colour) -> None:
    """An open umbrella with its grip at (0, 0) and the top of its canopy at y = 0.72."""
    pen.line([(0, -0.05), (0, 0.68)], 0.03, (90, 70, 55))
    pen.polygon(
        [(-0.4, 0.42), (-0.32, 0.58), (-0.18, 0.68), (0, 0.72), (0.18, 0.68), (0.32, 0.58), (0.4, 0.42), (0.27, 0.46),
         (0.13, 0.42), (0, 0.46), (-0.13, 0.42), (-0.27, 0.46)], colour
    )  # fmt: skip
    pen.polygon([(-0.13, 0.42), (0, 0.72), (0.13, 0.42), (0, 0.46)], shaded(colour, 0.75))


def backpack(pen: Pen, colour: Colour) -> None:
    """An upright backpack."""
    pen.rect(-0.11, 0.0, 0.11, 0.24, colour)
    pen.ellipse(0, 0.24, 0.11, 0.07, colour)
    pen.rect(-0.075, 0.02, 0.075, 0.12, shaded(colour, 0.65))
    pen.line([(-0.03, 0.31), (0.03, 0.31)], 0.03, shaded(colour, 0.5))


def handbag(pen: Pen, colour: Colour) -> None:
    """A handbag with its handle up."""
    pen.ring(0, 0.17, 0.09, 0.025, shaded(colour, 0.7))
    pen.polygon([(-0.15, 0.0), (0.15, 0.0), (0.11, 0.16), (-0.11, 0.16)], colour)
    pen.ellipse(0, 0.11, 0.025, 0.025, (240, 205, 90))


def suitcase(pen: Pen, colour: Colour) -> None:
    """A suitcase with straps."""
    pen.line([(-0.05, 0.27), (-0.05, 0.33), (0.05, 0.33), (0.05, 0.27)], 0.025, (60, 55, 52))
    pen.rect(-0.19, 0.0, 0.19, 0.27, colour)
    for x in (-0.1, 0.1):
        pen.rect(x - 0.02, 0.0, x + 0.02, 0.27, shaded(colour, 0.6))


def sports_ball(pen: Pen, colour: Colour) -> None:
    """A ball with two seams."""
    pen.ellipse(0, 0.095, 0.095, 0.095, colour)
    pen.line([(-0.08, 0.095), (0.08, 0.095)], 0.022, (40, 40, 40))
    pen.line([(0, 0.015), (0, 0.175)], 0.022, (40, 40, 40))


def book(pen: Pen, colour: Colour) -> None:
    """An open book from the front."""
    pen.polygon([(0, 0.0), (-0.15, 0.03), (-0.15, 0.19), (0, 0.16)], colour)
    pen.polygon([(0, 0.0), (0.15, 0.03), (0.15, 0.19), (0, 0.16)], shaded(colour, 0.8))
    pen.polygon([(0, 0.025), (-0.125, 0.05), (-0.125, 0.175), (0, 0.15)], (250, 248, 238))
    pen.polygon([(0, 0.025), (0.125, 0.05), (0.125, 0.175), (0, 0.15)], (235, 232, 220))


def cup(pen: Pen, colour: Colour) -> None:
    """A cup with its handle ahead."""
    pen.ring(0.09, 0.09, 0.05, 0.025, shaded(colour, 0.8))
    pen.polygon([(-0.065, 0.0), (0.065, 0.0), (0.085, 0.17), (-0.085, 0.17)], colour)
    pen.ellipse(0, 0.17, 0.085, 0.022, shaded(colour, 0.6))


def tie(pen: Pen, colour: Colour) -> None:
    """A tie that hangs down from (0, 0) to y = -0.3."""
    pen.polygon([(-0.06, 0.0), (0.06, 0.0), (0.04, -0.06), (-0.04, -0.06)], shaded(colour, 0.75))
    pen.polygon([(-0.04, -0.06), (0.04, -0.06), (0.085, -0.24), (0, -0.32), (-0.085, -0.24)], colour)


def laptop(pen: Pen, colour: Colour) -> None:
    """An open laptop from the front."""
    pen.polygon([(-0.2, 0.0), (0.2, 0.0), (0.16, 0.05), (-0.16, 0.05)], (150, 152, 158))
    pen.rect(-0.16, 0.05, 0.16, 0.25, (60, 62, 68))
    pen.rect(-0.14, 0.07, 0.14, 0.235, colour)


def tv(pen: Pen, colour: Colour) -> None:
    """A TV on a stand, with an image on its screen."""
    pen.rect(-0.18, 0.0, 0.18, 0.04, (50, 50, 54))
    pen.rect(-0.03, 0.0, 0.03, 0.14, (50, 50, 54))
    pen.rect(-0.34, 0.12, 0.34, 0.56, (28, 28, 32))
    pen.rect(-0.3, 0.16, 0.3, 0.52, colour)
    pen.polygon([(-0.3, 0.16), (-0.1, 0.4), (0.05, 0.25), (0.14, 0.33), (0.3, 0.16)], shaded(colour, 0.6))


def apple(pen: Pen, colour: Colour) -> None:
    """An apple with a leaf."""
    pen.ellipse(-0.03, 0.075, 0.065, 0.075, colour)
    pen.ellipse(0.03, 0.075, 0.065, 0.075, colour)
    pen.line([(0, 0.13), (0.02, 0.19)], 0.022, (90, 60, 30))
    pen.ellipse(0.06, 0.17, 0.035, 0.018, (70, 160, 60))
