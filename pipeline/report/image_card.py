"""Lays out the report's images: boxes by role, numbered arrows, and names that do not overlap.

Lengths are in thousandths of the image's width, so that style sheets can size text and strokes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pipeline.report.drawing import Line, Point, Rect, along, beside, name_places
from pipeline.report.samples import SampleImage, ShownRelation

WIDTH = 1000
"""Width of every drawing, in drawing units."""
LONGEST_SIDE = 1280
"""Longest side of stored images, in pixels. Smaller images keep their size."""
DRAWN = {"kept": 40, "dropped": 20, "missed": 20}
"""Maximum number of relations of each kind in an image's list; the others are counted."""
SHOWN = {"kept": 10, "dropped": 4, "missed": 4}
"""How many of them are listed before the image is enlarged."""
IN_ALT_TEXT = 12
_ALONG = tuple(0.5 + side * step / 20 for step in range(9) for side in ((1, -1) if step else (1,)))
"""Candidate places for an arrow's number, as shares of its length, the middle first."""
BADGE = 52
"""Minimum distance between the numbers of two arrows, if there is room."""
ASIDE = 9
"""Distance of an arrow from the line between the centres of its boxes."""
LETTERS = 36
"""Font size of the names of boxes."""


class Outline(NamedTuple):
    """A box and its role among the kept labels: subject, object or idle. A box with two roles has two outlines."""

    rect: Rect
    role: str


class Name(NamedTuple):
    """The name of a box, and the upper left corner of the text."""

    text: str
    x: float
    y: float


class Arrow(NamedTuple):
    """A numbered relation, listed under the same number. Its arrow runs from the subject's centre to the object's."""

    number: int
    kind: str
    """kept, dropped or missed."""
    relation: ShownRelation
    subject: Rect
    object: Rect
    line: Line
    badge: Point
    """Centre of the number."""
    folded: bool
    """Whether the relation is hidden until the image is enlarged."""


@dataclass(frozen=True)
class Card:
    """An image in the report. `file` is None if the image is unavailable; `problem` then says why."""

    anchor: str
    sample: SampleImage
    file: str | None
    problem: str
    height: int
    outlines: tuple[Outline, ...]
    names: tuple[Name, ...]
    arrows: tuple[Arrow, ...]
    omitted: dict[str, int]
    """Kind → number of relations over the limit, which are neither drawn nor listed."""

    def of_kind(self, kind: str) -> list[Arrow]:
        """The listed relations of a kind."""
        return [arrow for arrow in self.arrows if arrow.kind == kind]

    @property
    def alt(self) -> str:
        """Alternative text of the image: its kept labels or, if it has none, its boxes."""
        kept = self.of_kind("kept")
        said = [f"{a.relation.subject} {a.relation.predicate} {a.relation.object}" for a in kept[:IN_ALT_TEXT]]
        said = said or [box.name for box in self.sample.boxes[:IN_ALT_TEXT]]
        total = len(self.sample.kept) or len(self.sample.boxes)
        more = f" and {total - len(said)} more" if total > len(said) else ""
        what = "Kept labels" if kept else "No kept label. Boxes"
        return f"{what}: {', '.join(said) or 'none'}{more}."


def lay_out_card(
    anchor: str, sample: SampleImage, file: str | None = None, size: tuple[int, int] = (1, 1), problem: str = ""
) -> Card:
    """Lays out one image. `size`: width and height of the image that its boxes refer to, in pixels, if it is drawn."""
    unit = WIDTH / size[0]
    rects = [Rect(box.x, box.y, box.w, box.h).scaled(unit) for box in sample.boxes]
    height = round(size[1] * unit)
    named = [(box, rect) for box, rect in zip(sample.boxes, rects, strict=True) if box.named]
    places = name_places(((box.name, rect) for box, rect in named), LETTERS, WIDTH, height)
    kinds: dict[str, Sequence[ShownRelation]] = {
        "kept": sample.kept,
        "dropped": sample.dropped,
        "missed": sample.missed,
    }
    return Card(
        anchor=anchor,
        sample=sample,
        file=file,
        problem=problem,
        height=height,
        outlines=tuple(_outlines(sample, rects)),
        names=tuple(Name(box.name, place.x, place.y) for (box, _), place in zip(named, places, strict=True)),
        arrows=tuple(_arrows(kinds, rects)),
        omitted={kind: max(0, len(found) - DRAWN[kind]) for kind, found in kinds.items()},
    )


def save_image(image: Image.Image, path: Path) -> None:
    """Saves an image for the report, with sides of at most `LONGEST_SIDE` pixels."""
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    image.save(path, quality=85)


def _outlines(sample: SampleImage, rects: Sequence[Rect]) -> Iterator[Outline]:
    """Yields boxes without a role first, so that the others are drawn over them."""
    subjects = {label.ends[0] for label in sample.kept}
    objects = {label.ends[1] for label in sample.kept}
    for place, rect in enumerate(rects):
        if place not in subjects | objects:
            yield Outline(rect, "idle")
    for place in sorted(subjects | objects):
        if place in subjects:
            yield Outline(rects[place], "subject")
        if place in objects:
            yield Outline(rects[place].inset() if place in subjects else rects[place], "object")


def _arrows(kinds: dict[str, Sequence[ShownRelation]], rects: Sequence[Rect]) -> Iterator[Arrow]:
    number = 0
    for kind, relations in kinds.items():
        badges: list[Point] = []  # only the arrows of kept labels are visible together
        for place, relation in enumerate(relations[: DRAWN[kind]]):
            number += 1
            subject, object_ = (rects[end] for end in relation.ends)
            line = beside(subject.centre, object_.centre, ASIDE)
            badge = _badge(line, badges)
            badges.append(badge)
            folded = place >= SHOWN[kind]
            yield Arrow(number, kind, relation, subject, object_, line, badge, folded)


def _badge(line: Line, taken: Sequence[Point]) -> Point:
    """The place on the line nearest to its middle that keeps the other numbers readable."""
    best, farthest = (0.0, 0.0), -1.0
    for share in _ALONG:
        x, y = along(line, share)
        at = round(x, 1), round(y, 1)
        apart = min((math.dist(at, other) for other in taken), default=math.inf)
        if apart >= BADGE:
            return at
        if apart > farthest:
            best, farthest = at, apart
    return best
