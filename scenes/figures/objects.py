"""Draws vehicles, furniture and things, around x = 0 and on y = 0 unless stated otherwise."""

from scenes.ink import Colour, Pen, shaded

TYRE: Colour = (35, 35, 38)
GLASS: Colour = (185, 220, 235)
METAL: Colour = (170, 172, 178)
SURFACES: dict[str, tuple[float, float, float]] = {
    "chair": (-0.17, 0.15, 0.32),
    "bench": (-0.55, 0.55, 0.3),
    "couch": (-0.44, 0.44, 0.27),
    "bed": (-0.5, 0.66, 0.3),
    "dining table": (-0.5, 0.5, 0.46),
}
"""Furniture → (left, right, height) of the surface where other figures can sit or rest."""


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


def bicycle(pen: Pen, colour: Colour) -> None:
    """A bicycle."""
    for x in (-0.27, 0.27):
        pen.ring(x, 0.19, 0.19, 0.032, TYRE)
        pen.ellipse(x, 0.19, 0.03, 0.03, METAL)
    pen.line([(-0.27, 0.19), (-0.1, 0.4), (0.19, 0.4), (0.0, 0.17), (-0.27, 0.19)], 0.035, colour)
    pen.line([(-0.12, 0.45), (0.0, 0.17)], 0.035, colour)
    pen.line([(0.27, 0.19), (0.18, 0.5), (0.11, 0.52)], 0.035, colour)
    pen.line([(-0.2, 0.46), (-0.06, 0.46)], 0.05, (40, 35, 35))
    pen.ellipse(0.0, 0.17, 0.04, 0.04, METAL)


def motorcycle(pen: Pen, colour: Colour) -> None:
    """A motorcycle."""
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


def skateboard(pen: Pen, colour: Colour) -> None:
    """A skateboard."""
    for x in (-0.2, 0.2):
        pen.ellipse(x, 0.045, 0.048, 0.045, TYRE)
    pen.line([(-0.38, 0.15), (-0.28, 0.105), (0.28, 0.105), (0.38, 0.15)], 0.055, colour)


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
