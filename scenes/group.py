"""Groups of a few related figures, in units of an adult's height, y upwards from the ground."""

from dataclasses import dataclass, field
from random import Random

from scenes.figures import draw, person as body, pick_colour
from scenes.figures.objects import SURFACES
from scenes.ink import Pen, Point, Stroke

ROOFS: dict[str, tuple[float, float, float]] = {"car": (-0.19, 0.14, 0.5), "bus": (-0.7, 0.7, 0.76)}
NOBODY = -1
"""Owner of strokes that belong to no object, e.g. leashes."""


@dataclass
class UnplacedObject:
    """An object whose group is not yet placed."""

    category: str
    noun: str
    colour: str
    base: float = 0.0
    grounded: bool = True
    rests: bool = False
    """Whether the object was put down on another's surface."""
    surface: tuple[float, float, float] | None = None
    """(left, right, height) of the surface on or under which other objects can be; None if there is none."""


@dataclass
class Group:
    """Figures, their strokes from back to front, and their planted relations."""

    rng: Random
    drafts: list[UnplacedObject] = field(default_factory=list)
    strokes: list[tuple[int, Stroke]] = field(default_factory=list)
    planted: list[tuple[int, str, int]] = field(default_factory=list)

    def extent(self, owner: int | None = None) -> tuple[float, float, float, float]:
        """Returns the bounding box (x0, y0, x1, y1) of one object's strokes, or of all strokes."""
        boxes = [s.extent() for who, s in self.strokes if owner is None or who == owner]
        return (
            min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes),
        )  # fmt: skip

    def pen(self, owner: int, x: float, y: float, scale: float = 1.0, facing: int = 1) -> Pen:
        """Returns a pen for one object's strokes."""
        return Pen(self.strokes, owner, x, y, scale, facing)

    def add(
        self, category: str, x: float, y: float = 0.0, *, facing: int = 1, pose: str = "stand", scale: float = 1.0,
        grounded: bool = True, rests: bool = False,
    ) -> int:  # fmt: skip
        """Draws a figure other than a person. Returns its index in `drafts`."""
        name, colour = pick_colour(self.rng, category)
        me = len(self.drafts)
        surface = SURFACES.get(category) or ROOFS.get(category)
        if surface is not None:
            left, right = sorted((x + facing * scale * surface[0], x + facing * scale * surface[1]))
            surface = (left, right, y + scale * surface[2])
        self.drafts.append(UnplacedObject(category, category, name, y, grounded, rests, surface))
        draw(self.pen(me, x, y, scale, facing), category, colour, pose)
        return me

    def beside(self, category: str, gap: float, side: int) -> int:
        """Adds a figure or standing person at `gap` from the group's box, right (1) or left (-1). Returns its index."""
        x0, _, x1, _ = self.extent()
        start = len(self.strokes)
        if category == "person":
            me = PersonFigure(self, 0.0, facing=-side).finish()
        else:
            me = self.add(category, 0.0, facing=self.rng.choice((-1, 1)))
        own = self.extent(me)
        shift = x1 + gap - own[0] if side > 0 else x0 - gap - own[2]
        self.strokes[start:] = [(who, stroke.shifted(shift)) for who, stroke in self.strokes[start:]]
        for draft in self.drafts[me:]:
            if draft.surface is not None:
                left, right, height = draft.surface
                draft.surface = (left + shift, right + shift, height)
        return me


class PersonFigure:
    """A person drawn in steps (body, gear, head, arms), so that objects can go between body and arms."""

    def __init__(
        self, group: Group, x: float, y: float = 0.0, *, facing: int = 1, pose: str = "stand", hip: float | None = None,
        grounded: bool = True, profile: bool = False, gear: bool = True,
    ) -> None:  # fmt: skip
        self.group = group
        self.looks = body.draw_looks(group.rng)
        size = self.looks.size
        self.hip = body.HIP if hip is None else hip / size
        self.me = len(group.drafts)
        group.drafts.append(UnplacedObject("person", self.looks.kind, self.looks.shirt_name, y, grounded))
        self.pen = group.pen(self.me, x, y, size, facing)
        self.profile = profile
        self.free = {1, -1}
        wears = group.rng.random() if gear else 1.0
        if wears < 0.06:
            self.wear("backpack")
        body.legs(self.pen, self.looks, pose, self.hip)
        body.trunk(self.pen, self.looks, self.hip, skirt=pose in ("stand", "walk"))
        if 0.06 <= wears < 0.13:
            self.wear("tie")
        elif wears < 0.06:
            self.straps()

    def wear(self, category: str) -> None:
        """Adds a tie on the chest, or a backpack on the back (before the body is drawn over it)."""
        group, pen = self.group, self.pen
        name, colour = pick_colour(group.rng, category)
        it = len(group.drafts)
        group.drafts.append(UnplacedObject(category, category, name, pen.y, False))
        x, y = pen.place(*((0.0, self.hip + 0.31) if category == "tie" else (-0.23, self.hip + 0.03)))
        draw(group.pen(it, x, y, pen.scale, pen.facing), category, colour)
        group.planted.append((self.me, "wearing", it))

    def straps(self) -> None:
        """Draws the straps of a worn backpack over the shirt."""
        self.pen.line([(-0.1, self.hip + 0.31), (0.0, self.hip + 0.22), (-0.12, self.hip + 0.08)], 0.035, (60, 50, 45))

    def reach(self, hand: Point, side: int = 1, bend: float = 0.0) -> None:
        """Draws the arm on a side (1 ahead, -1 behind) with its hand at a point of the figure."""
        body.arm(self.pen, self.looks, hand, self.hip, side, bend)
        self.free.discard(side)

    def take(self, category: str, predicate: str) -> None:
        """Adds an object held out in front, or carried in the lowered arm."""
        group, pen, hip = self.group, self.pen, self.hip
        if predicate == "carrying":
            hand = (0.27, hip + 0.0)
            top = {"suitcase": 0.33, "handbag": 0.26, "backpack": 0.32}[category]
            at = (0.3, hip - top / pen.scale + 0.01)
        elif category == "umbrella":
            hand = (0.24, hip + 0.2)
            at = hand
        else:
            hand = (0.31, hip + 0.2)
            at = (0.37, hip + {"cup": 0.14, "book": 0.14, "sports ball": 0.21, "apple": 0.21}[category])
        x, y = pen.place(*at)
        it = group.add(category, x, y, facing=pen.facing, grounded=False)
        group.planted.append((self.me, predicate, it))
        self.reach(hand, bend=0.0 if predicate == "carrying" else 0.05)

    def finish(self) -> int:
        """Draws the head and the arms that are still free. Returns the person's index."""
        body.head(self.pen, self.looks, self.hip, self.profile)
        for side in sorted(self.free):
            body.arm(self.pen, self.looks, (side * 0.19, self.hip + 0.01), self.hip, side)
        return self.me
