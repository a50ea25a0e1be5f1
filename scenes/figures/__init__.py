"""Draws figures with a pen, in units of an adult's height: all but people by the name of their category."""

from collections.abc import Callable
from random import Random

from scenes.figures import objects
from scenes.figures.animals import BUILDS, animal, animal_colour, bird
from scenes.ink import NAMED, Colour, Pen, varied

OBJECTS: dict[str, tuple[Callable[[Pen, Colour], None], tuple[str, ...]]] = {
    "bicycle": (objects.bicycle, ("red", "blue", "green", "yellow", "black")),
    "motorcycle": (objects.motorcycle, ("red", "blue", "green", "orange")),
    "car": (objects.car, ("red", "blue", "green", "yellow", "white", "black", "gray")),
    "bus": (objects.bus, ("red", "yellow", "blue", "green")),
    "skateboard": (objects.skateboard, ("red", "orange", "purple", "green")),
    "chair": (objects.chair, ("brown", "red", "blue", "green")),
    "couch": (objects.couch, ("red", "blue", "green", "brown", "purple", "gray")),
    "bench": (objects.bench, ("brown", "green", "gray")),
    "bed": (objects.bed, ("red", "blue", "green", "pink", "purple")),
    "dining table": (objects.dining_table, ("brown", "white", "orange")),
    "umbrella": (objects.umbrella, ("red", "blue", "yellow", "purple", "black", "green")),
    "backpack": (objects.backpack, ("red", "blue", "green", "orange")),
    "handbag": (objects.handbag, ("red", "brown", "black", "pink")),
    "suitcase": (objects.suitcase, ("brown", "red", "blue", "green", "black")),
    "sports ball": (objects.sports_ball, ("orange", "white", "yellow", "red")),
    "book": (objects.book, ("red", "blue", "green", "brown")),
    "cup": (objects.cup, ("white", "red", "blue", "yellow")),
    "tie": (objects.tie, ("red", "blue", "yellow", "green")),
    "laptop": (objects.laptop, ("blue", "white", "green")),
    "tv": (objects.tv, ("blue", "green", "orange")),
    "apple": (objects.apple, ("red", "green")),
}
"""Category → what draws it, and the names of its colours."""


def pick_colour(rng: Random, category: str) -> tuple[str, Colour]:
    """Picks a colour of the category. Returns its name and value."""
    if category in BUILDS or category == "bird":
        return animal_colour(rng, category)
    name = rng.choice(OBJECTS[category][1])
    return name, varied(rng, NAMED[name])


def draw(pen: Pen, category: str, colour: Colour, pose: str = "stand") -> None:
    """Draws a figure. `pose` applies to animals only."""
    if category in BUILDS:
        animal(pen, category, colour, pose)
    elif category == "bird":
        bird(pen, colour)
    else:
        OBJECTS[category][0](pen, colour)
