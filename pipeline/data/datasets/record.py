"""The record of one image that a reader yields: boxes and relations as its dataset annotates them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.data.datasets.annotations import as_four_numbers, as_id, shown
from pipeline.data.images.refs import ImageRef
from pipeline.runtime.stage import Rejected


class Box(NamedTuple):
    """One annotated box: top-left corner and size in absolute raw pixels, not yet checked against the image."""

    category: str
    x: float
    y: float
    w: float
    h: float
    crowd: bool = False
    source_id: int = -1
    """Id of the box in its dataset; -1 if it has none."""

    @classmethod
    def between(cls, category: str, corners: Sequence[float], source_id: int = -1) -> Box:
        """The box between two corners: x1, y1, x2, y2."""
        x1, y1, x2, y2 = corners
        return cls(category, x1, y1, x2 - x1, y2 - y1, False, source_id)

    def written(self) -> str:
        """Formats the box for quarantine."""
        return f"{self.category} [{self.x:g}, {self.y:g}, {self.w:g}, {self.h:g}]"[:200]


NO_OBJECT = -1
"""`AnnotatedRelation.object` of a relation without an object."""


class AnnotatedRelation(NamedTuple):
    """A relation of the ground truth; `subject` and `object` are indices into the record's boxes."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class ImageRecord:
    """One image as its dataset describes it. `rejects` holds what the reader rejected of it."""

    dataset: str
    split: str
    image_id: int
    path: ImageRef
    width: int | None = None
    """Declared width in pixels; None if the dataset does not state it."""
    height: int | None = None
    boxes: tuple[Box, ...] = ()
    relations: tuple[AnnotatedRelation, ...] = ()
    rejects: tuple[Rejected, ...] = ()
    unpublished: bool = False
    """Whether the dataset lists the image without its file ever having been published."""


class Unusable(Exception):
    """An entry of the annotations can't be used. The message is the reason, short and countable."""


@dataclass
class Draft:
    """An image while its boxes and relations are collected."""

    image_id: int
    boxes: list[Box] = field(default_factory=list)
    places: dict[Any, int] = field(default_factory=dict)
    """Key by which relations name a box → its index."""
    ambiguous: set[Any] = field(default_factory=set)
    """Keys that several different boxes share."""
    relations: list[AnnotatedRelation] = field(default_factory=list)
    rejects: list[Rejected] = field(default_factory=list)

    def reject(self, reason: str, value: Any) -> None:
        """Rejects an unusable part of the image."""
        self.rejects.append(Rejected(self.image_id, reason, shown(value)))

    @contextmanager
    def rejecting(self, entry: Any) -> Iterator[None]:
        """Rejects the entry if using it raises `Unusable`."""
        try:
            yield
        except Unusable as fault:
            self.reject(str(fault), entry)

    def listed(self, entry: Mapping[str, Any], name: str) -> list[Any]:
        """A list of the image's entry; rejects anything else."""
        found = entry.get(name)
        if isinstance(found, list):
            return found
        self.reject(f"{name} malformed", found)
        return []

    def add(self, box: Box, key: Any) -> int:
        """Adds a box, and returns its index. No relation can name a box whose key is None."""
        if key in self.places and self.boxes[self.places[key]] != box:
            self.ambiguous.add(key)
        if key is not None:
            self.places[key] = len(self.boxes)
        self.boxes.append(box)
        return len(self.boxes) - 1

    def relate(self, subject: Any, predicate: str, target: Any) -> None:
        """Adds a relation between boxes by their keys. Raises `Unusable` if one is missing or ambiguous."""
        if subject in self.ambiguous or target in self.ambiguous:
            raise Unusable("relation of an id of several boxes")
        if subject not in self.places or target not in self.places:
            raise Unusable("relation without box")
        self.relations.append(AnnotatedRelation(self.places[subject], predicate, self.places[target]))

    def relate_boxes(self, subject: Box, predicate: str, target: Box) -> None:
        """Adds a relation that states its boxes. Equal boxes of one category are the same object."""
        for box in (subject, target):
            if box not in self.places:
                self.add(box, box)
        self.relate(subject, predicate, target)


def name_of(names: Mapping[Any, str], number: Any, reason: str) -> str:
    """The name with a number. Raises `Unusable` if there is none."""
    found = as_id(number)
    if found not in names:
        raise Unusable(reason)
    return names[found]


def numbers_of(value: Any, reason: str = "box malformed") -> tuple[float, float, float, float]:
    """A JSON list of four numbers. Raises `Unusable` for anything else."""
    found = as_four_numbers(value)
    if found is None:
        raise Unusable(reason)
    return found


def overlap(a: Box, b: Box, pixel: float = 0.0) -> float:
    """Intersection over union of two boxes. `pixel` = 1 follows the convention that a box includes its last pixel."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x) + pixel
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y) + pixel
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    union = (a.w + pixel) * (a.h + pixel) + (b.w + pixel) * (b.h + pixel) - shared
    return shared / union if union > 0 else 0.0
