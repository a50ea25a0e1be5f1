"""The part of a scene that the writers need, small enough to send between processes."""

from dataclasses import dataclass

from scenes.predicates import SYMMETRIC
from scenes.scene import Scene

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Written:
    """One image that is saved on disk. Boxes are (x, y, width, height) in pixels."""

    image_id: int
    file_name: str
    width: int
    height: int
    things: tuple[tuple[str, str, str], ...]
    """(category, noun, colour) of each object."""
    boxes: tuple[Box, ...]
    facts: tuple[tuple[int, str, int], ...]
    """Planted relations as (subject index, predicate, object index), once each."""

    @classmethod
    def of(cls, scene: Scene, image_id: int, file_name: str) -> "Written":
        """Extracts the data of a scene."""
        return cls(
            image_id,
            file_name,
            scene.width,
            scene.height,
            tuple((o.category, o.noun, o.colour) for o in scene.objects),
            tuple(o.box for o in scene.objects),
            tuple((r.subject, r.predicate, r.object) for r in scene.relations),
        )

    def all_facts(self) -> list[tuple[int, str, int]]:
        """Returns the planted relations, symmetric ones in both orders."""
        both = []
        for subject, predicate, target in self.facts:
            both.append((subject, predicate, target))
            if predicate in SYMMETRIC:
                both.append((target, predicate, subject))
        return both
