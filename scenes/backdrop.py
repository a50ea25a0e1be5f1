"""Draws backgrounds, which contain no objects: sky and hills, walls and floors, trees, clouds, pictures."""

from random import Random

from scenes.colours import shaded, varied
from scenes.ink import Colour, Stroke

SKIES: tuple[Colour, ...] = ((170, 210, 240), (200, 220, 235), (240, 205, 175), (150, 185, 225))
GROUNDS: tuple[Colour, ...] = ((150, 190, 120), (190, 180, 140), (175, 175, 172), (205, 190, 155), (130, 170, 125))
WALLS: tuple[Colour, ...] = ((225, 215, 195), (205, 220, 225), (215, 205, 220), (200, 215, 195), (232, 225, 222))
FLOORS: tuple[Colour, ...] = ((190, 160, 125), (175, 170, 165), (160, 135, 110), (200, 185, 165))


def _rect(x0: float, y0: float, x1: float, y1: float, colour: Colour) -> Stroke:
    return Stroke("polygon", (x0, y0, x1, y0, x1, y1, x0, y1), colour)


def make_backdrop(rng: Random, width: int, height: int, indoor: bool) -> tuple[Stroke, ...]:
    """Returns the strokes of a background from back to front, in pixels."""
    return tuple(_room(rng, width, height) if indoor else _landscape(rng, width, height))


def _room(rng: Random, width: int, height: int) -> list[Stroke]:
    wall, floor = varied(rng, rng.choice(WALLS)), varied(rng, rng.choice(FLOORS))
    edge = height * rng.uniform(0.3, 0.42)
    strokes = [_rect(0, 0, width, edge, wall), _rect(0, edge, width, height, floor)]
    strokes.append(_rect(0, edge - 3, width, edge, shaded(wall, 0.85)))
    for _ in range(rng.randint(0, 2)):
        x, y = rng.uniform(5, width - 40), rng.uniform(4, edge * 0.4)
        w, h = rng.uniform(18, 34), rng.uniform(14, 26)
        strokes.append(_rect(x, y, x + w, y + h, shaded(wall, 0.75)))
        strokes.append(_rect(x + 2, y + 2, x + w - 2, y + h - 2, varied(rng, rng.choice(SKIES), 25)))
    for y in range(int(edge) + 14, height, rng.randint(16, 26)):
        strokes.append(Stroke("line", (0, y, width, y), shaded(floor, 0.94), 1.0))
    if rng.random() < 0.4:
        x, y = rng.uniform(40, width - 40), height * rng.uniform(0.6, 0.85)
        strokes.append(Stroke("ellipse", (x - 60, y - 14, x + 60, y + 14), varied(rng, shaded(floor, 1.12), 20)))
    return strokes


def _landscape(rng: Random, width: int, height: int) -> list[Stroke]:
    sky, ground = varied(rng, rng.choice(SKIES)), varied(rng, rng.choice(GROUNDS))
    edge = height * rng.uniform(0.22, 0.38)
    strokes = [_rect(0, 0, width, edge, sky), _rect(0, edge, width, height, ground)]
    for _ in range(rng.randint(0, 3)):
        x, y, w = rng.uniform(0, width), rng.uniform(5, edge * 0.7), rng.uniform(12, 26)
        strokes.append(Stroke("ellipse", (x - w, y - w * 0.3, x + w, y + w * 0.3), (245, 247, 250)))
    if rng.random() < 0.4:
        x, r = rng.uniform(0, width), rng.uniform(50, 110)
        hill = (x - r, edge + 1, x - r * 0.4, edge * 0.5, x + r * 0.3, edge * 0.55, x + r, edge + 1)
        strokes.append(Stroke("polygon", hill, shaded(ground, 0.82)))
    for _ in range(rng.randint(0, 3)):
        x, r = rng.uniform(0, width), rng.uniform(9, 16)
        strokes.append(Stroke("line", (x, edge + 3, x, edge - r), (120, 95, 70), 4.0))
        leaf = varied(rng, (110, 155, 95))
        strokes.append(Stroke("ellipse", (x - r, edge - 2.4 * r, x + r, edge - 0.5 * r), leaf))
    if rng.random() < 0.35:
        y = height * rng.uniform(0.45, 0.6)
        strokes.append(_rect(0, y, width, y + height * 0.12, shaded(ground, 0.88)))
    for _ in range(rng.randint(0, 10)):
        x, y = rng.uniform(0, width), rng.uniform(edge + 5, height)
        strokes.append(Stroke("line", (x, y, x + 4, y - 3), shaded(ground, 0.8), 1.5))
    return strokes
