"""Draws any figure except a person by its category name."""

from collections.abc import Callable
from random import Random

from scenes.colours import NAMED, varied
from scenes.figures import furniture, things, vehicles
from scenes.figures.animals import BUILDS, animal, animal_colour, bird
from scenes.ink import Colour, Pen

DRAWERS: dict[str, Callable[[Pen, Colour], object]] = {
    "bicycle": vehicles.bicycle, "motorcycle": vehicles.motorcycle, "car": vehicles.car, "bus": vehicles.bus,
    "skateboard": vehicles.skateboard, "chair": furniture.chair, "couch": furniture.couch, "bench": furniture.bench,
    "bed": furniture.bed, "dining table": furniture.dining_table, "umbrella": things.umbrella,
    "backpack": things.backpack, "handbag": things.handbag, "suitcase": things.suitcase,
    "sports ball": things.sports_ball, "book": things.book, "cup": things.cup, "tie": things.tie,
    "laptop": things.laptop, "tv": things.tv, "apple": things.apple,
}  # fmt: skip

COLOURS: dict[str, tuple[str, ...]] = {
    "bicycle": ("red", "blue", "green", "yellow", "black"), "motorcycle": ("red", "blue", "green", "orange"),
    "car": ("red", "blue", "green", "yellow", "white", "black", "gray"), "bus": ("red", "yellow", "blue", "green"),
    "skateboard": ("red", "orange", "purple", "green"), "chair": ("brown", "red", "blue", "green"),
    "couch": ("red", "blue", "green", "brown", "purple", "gray"), "bench": ("brown", "green", "gray"),
    "bed": ("red", "blue", "green", "pink", "purple"), "dining table": ("brown", "white", "orange"),
    "umbrella": ("red", "blue", "yellow", "purple", "black", "green"), "backpack": ("red", "blue", "green", "orange"),
    "handbag": ("red", "brown", "black", "pink"), "suitcase": ("brown", "red", "blue", "green", "black"),
    "sports ball": ("orange", "white", "yellow", "red"), "book": ("red", "blue", "green", "brown"),
    "cup": ("white", "red", "blue", "yellow"), "tie": ("red", "blue", "yellow", "green"),
    "laptop": ("blue", "white", "green"), "tv": ("blue", "green", "orange"), "apple": ("red", "green"),
}  # fmt: skip


def pick_colour(rng: Random, category: str) -> tuple[str, Colour]:
    """Picks a colour of the category. Returns its name and value."""
    if category in BUILDS or category == "bird":
        return animal_colour(rng, category)
    name = rng.choice(COLOURS[category])
    return name, varied(rng, NAMED[name])


def draw(pen: Pen, category: str, colour: Colour, pose: str = "stand") -> None:
    """Draws a figure. `pose` applies to animals only."""
    if category in BUILDS:
        animal(pen, category, colour, pose)
    elif category == "bird":
        bird(pen, colour)
    else:
        DRAWERS[category](pen, colour)
