"""A synthetic scene: its objects, relations, and the strokes that draw them."""

from dataclasses import dataclass, field

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
    visible: float
    """Visible share of the figure's pixels, 0 to 1."""


@dataclass(frozen=True)
class Relation:
    """A planted relation between two objects, which are indices into `Scene.objects`."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Scene:
    """Complete description of an image. Lists every relation of `scenes.predicates` that holds."""

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
        """Returns planted relations as (subject category, predicate, object category)."""
        return {
            (self.objects[r.subject].category, r.predicate, self.objects[r.object].category) for r in self.relations
        }
