"""Named colours, and functions that vary them."""

from random import Random

from scenes.ink import Colour

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
