"""Draws animals from the side: four-legged ones by a common body plan, standing, grazing or lying, and a bird."""

from dataclasses import dataclass
from random import Random

from scenes.ink import NAMED, Colour, Pen, shaded, varied

EYE: Colour = (15, 15, 20)


@dataclass(frozen=True)
class Build:
    """Proportions of a species, in units of an adult's height."""

    length: float
    back: float
    """Height of the back."""
    depth: float
    """Half the body's thickness."""
    leg: float
    """Thickness of a leg."""
    neck: tuple[float, float]
    """Centre of the head relative to the front end of the back: (ahead, above)."""
    head: float
    colours: tuple[str, ...]


BUILDS: dict[str, Build] = {
    "horse": Build(0.62, 0.56, 0.14, 0.075, (0.2, 0.17), 0.085, ("brown", "black", "white", "gray")),
    "dog": Build(0.32, 0.28, 0.08, 0.055, (0.08, 0.1), 0.085, ("brown", "black", "white", "orange")),
    "cat": Build(0.28, 0.22, 0.068, 0.045, (0.04, 0.09), 0.085, ("orange", "black", "gray", "white")),
    "elephant": Build(0.68, 0.68, 0.22, 0.14, (0.15, -0.02), 0.165, ("gray",)),
    "cow": Build(0.6, 0.46, 0.15, 0.07, (0.13, 0.06), 0.1, ("white", "brown", "black")),
    "sheep": Build(0.42, 0.38, 0.14, 0.05, (0.08, 0.03), 0.075, ("white", "gray")),
}


BIRDS = ("blue", "red", "yellow", "black")


def animal_colour(rng: Random, species: str) -> tuple[str, Colour]:
    """Picks a colour of the species. Returns its name and value."""
    name = rng.choice(BIRDS if species == "bird" else BUILDS[species].colours)
    return name, varied(rng, NAMED[name], 10)


def animal(pen: Pen, species: str, colour: Colour, pose: str = "stand") -> None:
    """Draws an animal around x = 0, feet at y = 0. `pose` is stand, graze or lie."""
    b = BUILDS[species]
    half = b.length / 2
    lying = pose == "lie"
    back = b.depth * 2 + 0.01 if lying else b.back
    middle = back - b.depth
    dark = shaded(colour, 0.78)
    leg_colour = (60, 55, 55) if species == "sheep" else colour
    if lying:
        pen.line([(half * 0.5, 0.03), (half + 0.1, 0.03)], b.leg, dark)
        pen.line([(-half * 0.8, 0.03), (-half * 0.2, 0.03)], b.leg, dark)
    else:
        for x, far in ((-0.72, True), (0.62, True), (-0.9, False), (0.82, False)):
            shade = shaded(leg_colour, 0.75) if far else leg_colour
            pen.line([(x * half, middle), (x * half, b.leg * 0.3)], b.leg, shade)
            pen.rect(x * half - b.leg * 0.5, 0, x * half + b.leg * 0.55, b.leg * 0.45, (55, 48, 45))
    _tail(pen, species, -half, back, middle, dark)
    if species == "sheep":
        for i in range(5):
            pen.ellipse((-0.8 + 0.4 * i) * half, middle + (0.03 if i % 2 else 0.0), 0.11, b.depth, colour)
    else:
        pen.ellipse(0, middle, half * 1.08, b.depth, colour)
    if species == "cow":
        spot = (45, 40, 42) if sum(colour) > 360 else (235, 235, 230)
        pen.ellipse(-half * 0.45, middle + 0.03, 0.11, 0.075, spot)
        pen.ellipse(half * 0.35, middle - 0.01, 0.08, 0.085, spot)
        pen.ellipse(-half * 0.55, middle - b.depth, 0.06, 0.045, (240, 170, 170))
    hx = half + b.neck[0]
    hy = back + b.neck[1]
    if pose == "graze":
        hx, hy = half + b.neck[0] + 0.06, b.head + 0.1
    neck = b.depth * (0.62 if species != "elephant" else 0.9)
    pen.polygon(
        [(half * 0.55, middle + b.depth * 0.9), (half * 0.95, middle - b.depth * 0.45), (hx, hy - neck * 0.6),
         (hx - neck * 0.35, hy + neck * 0.7)], colour
    )  # fmt: skip
    if species == "horse":
        pen.line([(half * 0.5, back), (hx - 0.05, hy + 0.08)], 0.065, shaded(colour, 0.45))
    _head(pen, species, hx, hy, b.head, colour, pose)


def _tail(pen: Pen, species: str, x: float, back: float, middle: float, colour: Colour) -> None:
    if species == "horse":
        pen.line([(x, back - 0.06), (x - 0.09, middle - 0.02), (x - 0.11, middle - 0.2)], 0.06, shaded(colour, 0.6))
    elif species == "dog":
        pen.line([(x, middle + 0.03), (x - 0.09, middle + 0.16)], 0.04, colour)
    elif species == "cat":
        tip = (x - 0.03, middle + 0.25)
        pen.line([(x, middle), (x - 0.1, middle + 0.04), (x - 0.09, middle + 0.2), tip], 0.04, colour)
    elif species in ("cow", "elephant"):
        pen.line([(x, back - 0.08), (x - 0.07, middle - 0.12)], 0.03, colour)


def _head(pen: Pen, species: str, x: float, y: float, r: float, colour: Colour, pose: str) -> None:
    down = pose == "graze"
    dark = shaded(colour, 0.7)
    if species == "elephant":
        pen.ellipse(x, y, r, r * 1.05, colour)
        tip = (x + r * 1.35, 0.1) if not down else (x + r * 1.2, 0.07)
        pen.line([(x + r * 0.7, y), (x + r * 1.25, y - 0.2 if not down else y - 0.06), tip], 0.09, colour)
        pen.line([(x + r * 0.6, y - r * 0.6), (x + r * 1.3, y - r * 0.75)], 0.04, (250, 245, 225))
        pen.ellipse(x - r * 0.55, y - 0.01, r * 0.72, r * 1.05, shaded(colour, 0.82))
        pen.ellipse(x + r * 0.5, y + r * 0.3, 0.025, 0.025, EYE)
    elif species == "sheep":
        face = (70, 62, 60)
        pen.ellipse(x - 0.02, y + 0.05, r, r * 0.8, colour)
        pen.ellipse(x + 0.03, y, r, r * 0.85 if not down else r, face)
        pen.ellipse(x - 0.06, y + 0.02, 0.05, 0.025, face)
        pen.ellipse(x + 0.05, y + 0.02, 0.018, 0.018, (240, 240, 240))
    elif species == "cat":
        pen.polygon([(x - r * 0.95, y + r * 0.3), (x - r * 0.75, y + r * 1.55), (x - r * 0.05, y + r * 0.8)], colour)
        pen.polygon([(x + r * 0.95, y + r * 0.3), (x + r * 0.75, y + r * 1.55), (x + r * 0.05, y + r * 0.8)], colour)
        pen.ellipse(x, y, r * 1.05, r * 0.95, colour)
        for side in (-1, 1):
            pen.ellipse(x + side * r * 0.4, y + r * 0.15, r * 0.2, r * 0.26, (150, 215, 90))
            pen.ellipse(x + side * r * 0.4, y + r * 0.15, r * 0.09, r * 0.22, EYE)
            pen.line([(x + side * r * 0.3, y - r * 0.35), (x + side * r * 1.3, y - r * 0.3)], 0.012, (250, 250, 250))
        pen.ellipse(x, y - r * 0.25, r * 0.16, r * 0.12, (225, 120, 130))
    elif species == "dog":
        pen.ellipse(x, y, r, r, colour)
        pen.ellipse(x + r * 0.95, y - r * 0.3, r * 0.65, r * 0.45, shaded(colour, 0.92))
        pen.ellipse(x + r * 1.5, y - r * 0.15, r * 0.22, r * 0.2, EYE)
        pen.ellipse(x - r * 0.5, y - r * 0.15, r * 0.38, r * 0.85, dark)
        pen.ellipse(x + r * 0.4, y + r * 0.3, r * 0.2, r * 0.2, EYE)
    elif species == "horse":
        tip = (x + 0.13, y - 0.1) if not down else (x + 0.06, y - 0.13)
        pen.polygon([(x - 0.07, y + 0.02), (x - 0.05, y + 0.17), (x + 0.0, y + 0.07)], colour)
        pen.line([(x, y + 0.01), tip], r * 1.35, colour)
        pen.ellipse(x, y + 0.01, r * 0.85, r * 0.85, colour)
        pen.ellipse(tip[0], tip[1], r * 0.7, r * 0.62, dark)
        pen.ellipse(x + 0.02, y + 0.03, 0.02, 0.02, EYE)
    else:
        tip = (x + 0.08, y - 0.05) if not down else (x + 0.04, y - 0.08)
        pen.ellipse(x, y, r, r * 0.85, colour)
        pen.line([(x - 0.03, y + r * 0.7), (x + 0.02, y + r * 1.5)], 0.03, (235, 225, 195))
        pen.ellipse(x - r * 0.8, y + r * 0.35, 0.055, 0.03, dark)
        pen.ellipse(tip[0], tip[1], r * 0.72, r * 0.58, (235, 175, 165))
        pen.ellipse(x + 0.01, y + 0.03, 0.022, 0.022, EYE)


def bird(pen: Pen, colour: Colour) -> None:
    """Draws a bird that stands on y = 0."""
    for x in (-0.015, 0.035):
        pen.line([(x, 0.07), (x, 0.0)], 0.018, (200, 130, 40))
    pen.polygon([(-0.07, 0.13), (-0.21, 0.19), (-0.2, 0.11), (-0.08, 0.08)], shaded(colour, 0.65))
    pen.ellipse(0, 0.13, 0.12, 0.075, colour)
    pen.ellipse(0.1, 0.21, 0.06, 0.06, colour)
    pen.polygon([(0.145, 0.235), (0.235, 0.205), (0.145, 0.185)], (240, 150, 30))
    pen.ellipse(-0.02, 0.13, 0.075, 0.042, shaded(colour, 0.65))
    pen.ellipse(0.12, 0.225, 0.016, 0.016, (250, 250, 250))
