"""What a made scene is: objects, relations, and the ink that draws them."""

from dataclasses import dataclass, field

from scenes.ink import Stroke


@dataclass(frozen=True)
class SceneObject:
    """One object. Boxes are (x, y, width, height) in pixels of the picture, origin at the top left."""

    category: str
    box: tuple[float, float, float, float]
    """Extent of the pixels that remain visible."""
    full_box: tuple[float, float, float, float]
    """Extent of the whole figure, hidden parts included."""
    base: float
    """Height in the picture (pixels from the top) of the line that the object stands on."""
    grounded: bool
    """Stands on the ground itself; false when another object supports it."""
    noun: str
    """What it is called in particular: man, woman, boy or girl for a person, else the category."""
    colour: str
    """Name of its main colour."""
    visible: float
    """Visible share of the figure's pixels, 0 to 1."""


@dataclass(frozen=True)
class Relation:
    """A planted relation between two objects, given by their position in `Scene.objects`."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Scene:
    """A picture's complete description: every relation among `scenes.predicates` that holds is listed."""

    seed: int
    index: int
    width: int
    height: int
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...]
    indoor: bool
    backdrop: tuple[Stroke, ...] = field(repr=False)
    strokes: tuple[tuple[int, Stroke], ...] = field(repr=False)
    """(object, stroke) from back to front."""

    def triplets(self) -> set[tuple[str, str, str]]:
        """Planted relations as (subject category, predicate, object category)."""
        return {
            (self.objects[r.subject].category, r.predicate, self.objects[r.object].category) for r in self.relations
        }
