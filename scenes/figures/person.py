"""Draws people: upright, seated, astride, kicking or lying, with arms that reach, and a head from the front or side."""

from dataclasses import dataclass
from random import Random

from scenes.ink import HAIR, NAMED, SKIN, Colour, Pen, Point, shaded, varied
from scenes.names import PEOPLE

SHOE: Colour = (50, 40, 38)
EYE: Colour = (20, 20, 25)
SIZES = {"man": 1.0, "woman": 0.95, "boy": 0.76, "girl": 0.74}
HIP = 0.42


@dataclass(frozen=True)
class Looks:
    """A person's kind, colours and size."""

    kind: str
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shirt_name: str
    size: float


def draw_looks(rng: Random) -> Looks:
    """Draws random looks."""
    kind = rng.choice(PEOPLE)
    shirt_name = rng.choice(("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black"))
    trousers = varied(rng, NAMED[rng.choice(("blue", "black", "gray", "brown"))])
    return Looks(
        kind,
        varied(rng, rng.choice(SKIN), 8),
        varied(rng, rng.choice(HAIR), 8),
        varied(rng, NAMED[shirt_name]),
        trousers,
        shirt_name,
        SIZES[kind] * rng.uniform(0.95, 1.04),
    )


def _leg(pen: Pen, points: list[Point], colour: Colour) -> None:
    pen.line(points, 0.095, colour)
    x, y = points[-1]
    pen.ellipse(x + 0.025, y + 0.005, 0.06, 0.032, SHOE)


def legs(pen: Pen, looks: Looks, pose: str, hip: float = HIP) -> None:
    """Draws the legs of a pose: stand, walk, sit, ride, kick. The hip is at (0, hip). Only `ride` has no foot down."""
    skirt = looks.kind in ("woman", "girl")
    colour = looks.skin if skirt else looks.trousers
    far = shaded(colour, 0.86)
    foot = 0.03
    if pose == "stand":
        _leg(pen, [(-0.06, hip), (-0.07, foot)], colour)
        _leg(pen, [(0.06, hip), (0.07, foot)], colour)
    elif pose == "walk":
        _leg(pen, [(-0.02, hip), (-0.08, 0.22), (-0.17, foot)], far)
        _leg(pen, [(0.02, hip), (0.09, 0.22), (0.14, foot)], colour)
    elif pose == "kick":
        _leg(pen, [(-0.03, hip), (-0.08, foot)], far)
        _leg(pen, [(0.03, hip), (0.18, 0.26), (0.33, 0.13)], colour)
    elif pose == "sit":
        _leg(pen, [(-0.02, hip), (0.2, hip - 0.02), (0.22, foot)], far)
        _leg(pen, [(0.0, hip - 0.01), (0.25, hip - 0.03), (0.28, foot)], colour)
    elif pose == "ride":
        _leg(pen, [(0.0, hip), (0.11, hip - 0.14), (0.07, hip - 0.32)], colour)
    else:
        raise ValueError(f"pose {pose!r}: unknown; use stand, walk, kick, sit or ride")


def trunk(pen: Pen, looks: Looks, hip: float = HIP, skirt: bool = True) -> None:
    """Draws the torso with the shirt or dress, from the hip to the shoulders."""
    top = hip + 0.32
    if looks.kind in ("woman", "girl") and skirt:
        pen.polygon([(-0.12, top), (0.12, top), (0.2, hip - 0.1), (-0.2, hip - 0.1)], looks.shirt)
    else:
        pen.polygon([(-0.14, top), (0.14, top), (0.115, hip - 0.03), (-0.115, hip - 0.03)], looks.shirt)
        pen.rect(-0.115, hip - 0.05, 0.115, hip, looks.trousers)


def arm(pen: Pen, looks: Looks, hand: Point, hip: float = HIP, side: int = 1, bend: float = 0.0) -> None:
    """Draws an arm from the shoulder on a side (1 ahead, -1 behind) to the hand. `bend` lowers the elbow."""
    x, y = side * 0.12, hip + 0.28
    elbow = ((x + hand[0]) / 2, (y + hand[1]) / 2 - bend)
    sleeve = shaded(looks.shirt, 0.8)
    pen.line([(x, y), elbow], 0.075, sleeve)
    pen.line([elbow, hand], 0.06, looks.skin)
    pen.ellipse(hand[0], hand[1], 0.04, 0.04, looks.skin)


def head(pen: Pen, looks: Looks, hip: float = HIP, profile: bool = False, x: float = 0.0) -> None:
    """Draws the head on the shoulders, from the front with two eyes or in profile with a nose, facing ahead."""
    y = hip + 0.45
    long_hair = looks.kind in ("woman", "girl")
    pen.rect(x - 0.04, hip + 0.3, x + 0.04, y, shaded(looks.skin, 0.9))
    if profile:
        if long_hair:
            falling = [(x - 0.15, y + 0.05), (x - 0.02, y + 0.1), (x - 0.04, y - 0.18), (x - 0.17, y - 0.18)]
            pen.polygon(falling, looks.hair)
        pen.ellipse(x, y, 0.125, 0.13, looks.skin)
        pen.polygon([(x + 0.1, y + 0.04), (x + 0.2, y - 0.025), (x + 0.1, y - 0.045)], looks.skin)
        pen.polygon(
            [(x + 0.07, y + 0.11), (x - 0.02, y + 0.145), (x - 0.11, y + 0.1), (x - 0.14, y), (x - 0.1, y - 0.08),
             (x - 0.03, y + 0.0), (x - 0.01, y + 0.07)], looks.hair
        )  # fmt: skip
        pen.ellipse(x + 0.065, y + 0.025, 0.04, 0.035, (250, 250, 250))
        pen.ellipse(x + 0.085, y + 0.025, 0.022, 0.027, EYE)
        return
    if long_hair:
        falling = [(x - 0.15, y + 0.06), (x + 0.15, y + 0.06), (x + 0.16, y - 0.19), (x - 0.16, y - 0.19)]
        pen.polygon(falling, looks.hair)
        pen.rect(x - 0.04, hip + 0.3, x + 0.04, y, shaded(looks.skin, 0.9))
    pen.ellipse(x, y, 0.12, 0.13, looks.skin)
    pen.polygon(
        [(x - 0.125, y + 0.03), (x - 0.1, y + 0.11), (x, y + 0.145), (x + 0.1, y + 0.11), (x + 0.125, y + 0.03),
         (x + 0.06, y + 0.065), (x - 0.06, y + 0.065)], looks.hair
    )  # fmt: skip
    for dx in (-0.045, 0.045):
        pen.ellipse(x + dx, y + 0.01, 0.018, 0.022, EYE)
    pen.line([(x - 0.035, y - 0.06), (x + 0.035, y - 0.06)], 0.018, (150, 50, 50))


def lying(pen: Pen, looks: Looks) -> None:
    """Draws a person lying on the back on y = 0, with the head at x = 0 and the feet ahead at x = 0.9."""
    pen.line([(0.4, 0.085), (0.86, 0.07)], 0.1, looks.trousers)
    pen.ellipse(0.89, 0.09, 0.035, 0.06, SHOE)
    pen.polygon([(0.13, 0.02), (0.13, 0.17), (0.45, 0.16), (0.47, 0.02)], looks.shirt)
    pen.line([(0.2, 0.13), (0.42, 0.1)], 0.055, looks.skin)
    pen.ellipse(0.02, 0.12, 0.13, 0.12, looks.skin)
    pen.polygon([(-0.11, 0.12), (-0.09, 0.2), (0.0, 0.24), (-0.02, 0.12), (-0.05, 0.02)], looks.hair)
    pen.line([(0.04, 0.17), (0.09, 0.17)], 0.02, EYE)
