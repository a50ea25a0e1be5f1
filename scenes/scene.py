"""A synthetic scene: its objects, relations and strokes, and how they are rendered to pixels."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from scenes.ink import Stroke


@dataclass(frozen=True)
class SceneObject:
    """One object. Boxes are (x, y, width, height) in pixels, with the origin at the top left of the image."""

    category: str
    box: tuple[float, float, float, float]
    """Bounding box of the visible pixels."""
    full_box: tuple[float, float, float, float]
    """Bounding box of the whole figure, hidden parts included."""
    base: float
    """The y coordinate, in pixels from the top, of the line that the object stands on."""
    grounded: bool
    """Whether the object stands on the ground; false if another object supports it."""
    noun: str
    """Specific noun: man, woman, boy or girl for a person, else the category."""
    colour: str
    """Name of the main colour."""


@dataclass(frozen=True)
class PlantedRelation:
    """A planted relation between two objects, which are indices into `Scene.objects`."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Scene:
    """Complete description of an image. Lists every relation of `scenes.names` that holds."""

    seed: int
    index: int
    width: int
    height: int
    objects: tuple[SceneObject, ...]
    relations: tuple[PlantedRelation, ...]
    backdrop: tuple[Stroke, ...] = field(repr=False)
    strokes: tuple[tuple[int, Stroke], ...] = field(repr=False)
    """(object, stroke) from back to front."""

    def triplets(self) -> set[tuple[str, str, str]]:
        """Returns planted relations as (subject category, predicate, object category)."""
        return {
            (self.objects[r.subject].category, r.predicate, self.objects[r.object].category) for r in self.relations
        }


SUPERSAMPLE = 2


def put(canvas: ImageDraw.ImageDraw, stroke: Stroke, scale: float, fill: int | tuple[int, int, int]) -> None:
    """Draws one stroke at a scale, with `fill` in place of the stroke's colour."""
    points = [v * scale for v in stroke.points]
    if stroke.kind == "line":
        width = max(1, round(stroke.width * scale))
        canvas.line(points, fill=fill, width=width, joint="curve" if len(points) > 4 else None)
        # Pillow ends lines flat.
        if width > 3:
            r = (width - 1) / 2
            for x, y in ((points[0], points[1]), (points[-2], points[-1])):
                canvas.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif stroke.kind == "polygon":
        canvas.polygon(points, fill=fill)
    else:
        x0, y0, x1, y1 = points
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        if stroke.kind == "ring":
            canvas.ellipse(box, outline=fill, width=max(1, round(stroke.width * scale)))
        else:
            canvas.ellipse(box, fill=fill)


def render(scene: Scene) -> Image.Image:
    """Renders a scene as an RGB image of scene.width by scene.height pixels."""
    size = (scene.width * SUPERSAMPLE, scene.height * SUPERSAMPLE)
    image = Image.new("RGB", size)
    canvas = ImageDraw.Draw(image)
    for stroke in scene.backdrop:
        put(canvas, stroke, SUPERSAMPLE, stroke.colour)
    for _, stroke in scene.strokes:
        put(canvas, stroke, SUPERSAMPLE, stroke.colour)
    small = image.reduce(SUPERSAMPLE)
    rng = np.random.default_rng((scene.seed, scene.index))
    noise = rng.integers(-5, 6, (scene.height, scene.width, 1), dtype=np.int16)
    pixels = np.clip(np.asarray(small, dtype=np.int16) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def label_map(strokes: list[tuple[int, Stroke]], width: int, height: int) -> np.ndarray:
    """Returns the object that each pixel shows as (height, width) uint8: the object's index + 1, 0 for none."""
    image = Image.new("L", (width, height))
    canvas = ImageDraw.Draw(image)
    for owner, stroke in strokes:
        put(canvas, stroke, 1, owner + 1)
    return np.asarray(image)
