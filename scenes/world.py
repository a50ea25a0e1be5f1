"""Generates synthetic scenes: `make_scene(seed, index)` gives the same scene on every machine.

A layout of groups of figures is completed by every spatial relation that holds by geometric rules, so that the ground
truth is complete; a scene with a pair that is too close to call is discarded. The background contains no objects.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

from scenes.group import NOBODY, Group
from scenes.ink import Colour, Stroke, shaded, varied
from scenes.interactions import GAP, alone, group_of_a_kind
from scenes.scene import PlantedRelation, Scene, SceneObject, label_map

MakeGroup = Callable[[Random, bool], Group]
MAX_OBJECTS = 8
SMALLEST_UNIT = 58.0
LARGEST_UNIT = 100.0
MARGIN = 4.0
LEAST_VISIBLE = 0.35
COMPANIONS = ("person", "person", "dog", "suitcase", "bicycle", "chair", "cow")
NEAR = 9.0
"""Maximum gap between the boxes of neighbours, in pixels like all lengths of the rules."""
CLEAR = 13.0
"""Minimum gap between the boxes of objects that are not neighbours."""
LEVEL = 5.0
"""Objects on the same ground line differ in height by less than this."""
SKIES: tuple[Colour, ...] = ((170, 210, 240), (200, 220, 235), (240, 205, 175), (150, 185, 225))
GROUNDS: tuple[Colour, ...] = ((150, 190, 120), (190, 180, 140), (175, 175, 172), (205, 190, 155), (130, 170, 125))
WALLS: tuple[Colour, ...] = ((225, 215, 195), (205, 220, 225), (215, 205, 220), (200, 215, 195), (232, 225, 222))
FLOORS: tuple[Colour, ...] = ((190, 160, 125), (175, 170, 165), (160, 135, 110), (200, 185, 165))


def make_scene(seed: int, index: int, make_group: MakeGroup = group_of_a_kind) -> Scene:
    """Generates scene number `index` of a seed. Raises RuntimeError if 200 attempts give no unambiguous layout.

    `make_group`: makes a group of figures, indoors (True) or outdoors. The groups of the second world (scenes.acts)
    stand in one row, larger than those of the first, so that pixels show what boxes don't.
    """
    for attempt in range(200):
        try:
            # Python derives a seed from text by SHA-512, so every machine draws the same.
            return _attempt(Random(f"{seed}/{index}/{attempt}"), seed, index, make_group)
        except TooCloseToCallError:
            continue
    raise RuntimeError(f"scene {index} of seed {seed}: all 200 layouts were too close to call; use another seed")


def _attempt(rng: Random, seed: int, index: int, make_group: MakeGroup) -> Scene:
    width, height = rng.randrange(208, 257, 4), rng.randrange(168, 209, 4)
    indoor = rng.random() < 0.4
    rows = 1 if rng.random() < 0.25 else 2
    unit, smallest = min(LARGEST_UNIT, height * (0.5 if rows == 1 else 0.37)), SMALLEST_UNIT
    if make_group is not group_of_a_kind:
        rows, height = 1, height * 5 // 8
        unit, smallest = height * 0.75, 1.2 * SMALLEST_UNIT
    bases = [height * rng.uniform(0.84, 0.95)] if rows == 1 else [height * rng.uniform(0.46, 0.49), height * 0.96]
    objects: list[tuple[Group, float, float, float]] = []
    groups: list[list[Group]] = []
    wanted: set[str] = set()
    for _ in bases:
        row: list[Group] = []
        for _ in range(3):
            if not row or not wanted or rng.random() < 0.65:
                group = make_group(rng, indoor)
                if rng.random() < 0.18:
                    group.beside(rng.choice(COMPANIONS), rng.uniform(*GAP), rng.choice((-1, 1)))
            else:
                group = alone(rng, rng.choice(sorted(wanted)))
            if row and _unit([*row, group], width) < smallest:
                break
            row.append(group)
            wanted |= {d.category for d in group.drafts if d.category not in ("tie",)}
        rng.shuffle(row)
        groups.append(row)
    for row, base in zip(groups, bases, strict=True):
        scale = min(unit, _unit(row, width), *((base - 2 if len(bases) == 1 or base is bases[0] else height * 0.46)
                                               / g.extent()[3] for g in row))  # fmt: skip
        if scale < smallest * 0.9:
            raise TooCloseToCallError
        objects += _spread(rng, row, base, scale, width)
    if sum(len(g.drafts) for g, *_ in objects) > MAX_OBJECTS:
        raise TooCloseToCallError
    return _settle(rng, seed, index, (width, height), indoor, objects)


def _unit(row: list[Group], width: int) -> float:
    """Returns the scale, in pixels per unit, at which the row exactly fits the width."""
    taken = 2 * MARGIN + (len(row) - 1) * (CLEAR + 4)
    return (width - taken) / sum(g.extent()[2] - g.extent()[0] for g in row)


def _spread(
    rng: Random, row: list[Group], base: float, scale: float, width: int
) -> list[tuple[Group, float, float, float]]:
    """Places a row's groups from left to right, as (group, x of its origin, ground line, scale)."""
    widths = [(g.extent()[2] - g.extent()[0]) * scale for g in row]
    slack = width - 2 * MARGIN - sum(widths) - (len(row) - 1) * (CLEAR + 4)
    cuts = sorted(rng.uniform(0, slack) for _ in row)
    placed = []
    x = MARGIN
    for i, group in enumerate(row):
        x += cuts[i] - (cuts[i - 1] if i else 0.0)
        placed.append((group, x - group.extent()[0] * scale, base - rng.uniform(0, 3), scale))
        x += widths[i] + CLEAR + 4
    return placed


def _settle(
    rng: Random, seed: int, index: int, size: tuple[int, int], indoor: bool,
    groups: list[tuple[Group, float, float, float]],
) -> Scene:  # fmt: skip
    """Converts placed groups to a scene: strokes in pixels, visible boxes, and every relation that holds."""
    width, height = size
    strokes: list[tuple[int, Stroke]] = []
    placed: list[Placed] = []
    planted: list[tuple[int, str, int]] = []
    drafts = []
    for group, x, base, scale in groups:
        first = len(placed)
        for owner, stroke in group.strokes:
            strokes.append((owner + first if owner != NOBODY else NOBODY, stroke.moved(x, base, scale)))
        for i, draft in enumerate(group.drafts):
            x0, y0, x1, y1 = group.extent(i)
            box = (x + scale * x0, base - scale * y1, x + scale * x1, base - scale * y0)
            surface = None
            if draft.surface is not None:
                left, right, top = draft.surface
                surface = (x + scale * left, x + scale * right, base - scale * top)
            placed.append(Placed(draft.category, box, base - scale * draft.base, draft.grounded, draft.rests, surface))
            drafts.append(draft)
        planted += [(s + first, p, o + first) for s, p, o in group.planted]
    if any(p.box[1] < 1 for p in placed):
        raise TooCloseToCallError
    related = {pair for s, _, o in planted for pair in ((s, o), (o, s))}
    planted += spatial_relations(placed, related)
    if not planted:
        raise TooCloseToCallError
    shown = label_map(strokes, width, height)
    objects = []
    for i, (draft, spot) in enumerate(zip(drafts, placed, strict=True)):
        ys, xs = np.nonzero(shown == i + 1)
        alone_map = label_map([(o, s) for o, s in strokes if o == i], width, height)
        if len(xs) / max(1, int(np.count_nonzero(alone_map))) < LEAST_VISIBLE:
            raise TooCloseToCallError
        x0, y0, x1, y1 = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
        full = (spot.box[0], spot.box[1], spot.box[2] - spot.box[0], spot.box[3] - spot.box[1])
        seen = (x0, y0, x1 - x0, y1 - y0)
        objects.append(SceneObject(draft.category, seen, full, spot.base, draft.grounded, draft.noun, draft.colour))
    relations = tuple(PlantedRelation(*r) for r in planted)
    backdrop = tuple((_room if indoor else _landscape)(rng, width, height))
    return Scene(seed, index, width, height, tuple(objects), relations, backdrop, tuple(strokes))


@dataclass(frozen=True)
class Placed:
    """Input of the rules for one object: the box (x0, y0, x1, y1) of the whole figure, and where it stands."""

    category: str
    box: tuple[float, float, float, float]
    base: float
    grounded: bool
    rests: bool
    surface: tuple[float, float, float] | None


class TooCloseToCallError(Exception):
    """A pair is neither clearly related nor clearly unrelated."""


def _overlap(a: Placed, b: Placed) -> float:
    """Returns the horizontal overlap as a share of the narrower box; negative if they are apart."""
    shared = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    return shared / min(a.box[2] - a.box[0], b.box[2] - b.box[0])


def _touch(a: Placed, b: Placed) -> bool:
    return a.box[1] < b.box[3] and b.box[1] < a.box[3] and a.box[0] < b.box[2] and b.box[0] < a.box[2]


def on(a: Placed, b: Placed) -> bool:
    """Returns whether a rests on b: a was put down, and the middle of its base is on b's surface."""
    if not a.rests or b.surface is None:
        return False
    left, right, height = b.surface
    return left <= (a.box[0] + a.box[2]) / 2 <= right and abs(a.base - height) < LEVEL


def under(a: Placed, b: Placed) -> bool:
    """Returns whether a stands on b's ground line, within b's width and with its top below b's surface."""
    if not a.grounded or b.surface is None or b.category not in ("dining table", "bench", "chair"):
        return False
    left, right, height = b.surface
    middle = (a.box[0] + a.box[2]) / 2
    return left <= middle <= right and a.box[1] > height and abs(a.base - b.base) < LEVEL


def behind(a: Placed, b: Placed) -> bool:
    """Returns whether a stands further back than b and b hides part of it. Raises TooCloseToCallError."""
    if not (a.grounded and b.grounded) or a.base > b.base - LEVEL or not _touch(a, b):
        return False
    overlap = _overlap(a, b)
    if 0.1 < overlap < 0.5:
        raise TooCloseToCallError
    return overlap >= 0.5


def next_to(a: Placed, b: Placed) -> bool:
    """Returns whether a and b stand side by side on one ground line. Raises TooCloseToCallError."""
    if not (a.grounded and b.grounded) or abs(a.base - b.base) >= 2 * LEVEL:
        return False
    gap = max(a.box[0], b.box[0]) - min(a.box[2], b.box[2])
    if gap >= CLEAR:
        return False
    if abs(a.base - b.base) >= LEVEL or gap > NEAR or _overlap(a, b) > 0.15:
        raise TooCloseToCallError
    return True


def spatial_relations(placed: list[Placed], planted: set[tuple[int, int]]) -> list[tuple[int, str, int]]:
    """Returns all spatial relations of pairs that have no planted relation.

    `planted` holds pairs in both orders. A symmetric relation is listed once, with the earlier object as subject.
    Raises TooCloseToCallError.
    """
    relations: list[tuple[int, str, int]] = []
    for i, a in enumerate(placed):
        for j, b in enumerate(placed):
            if i == j or (i, j) in planted:
                continue
            if on(a, b):
                relations.append((i, "on", j))
            elif under(a, b):
                relations.append((i, "under", j))
            elif on(b, a) or under(b, a):
                continue
            elif behind(a, b):
                relations.append((i, "behind", j))
            elif not behind(b, a) and i < j and next_to(a, b):
                relations.append((i, "next to", j))
    return relations


def _rect(x0: float, y0: float, x1: float, y1: float, colour: Colour) -> Stroke:
    return Stroke("polygon", (x0, y0, x1, y0, x1, y1, x0, y1), colour)


def _room(rng: Random, width: int, height: int) -> list[Stroke]:
    """Returns the strokes of a background from back to front, in pixels, as `_landscape` does."""
    wall, floor = varied(rng, rng.choice(WALLS)), varied(rng, rng.choice(FLOORS))
    edge = height * rng.uniform(0.3, 0.42)
    strokes = [_rect(0, 0, width, edge, wall), _rect(0, edge, width, height, floor)]
    strokes.append(_rect(0, edge - 3, width, edge, shaded(wall, 0.85)))
    for _ in range(rng.randint(0, 2)):
        x, y = rng.uniform(5, width - 40), rng.uniform(4, edge * 0.4)
        w, h = rng.uniform(18, 34), rng.uniform(14, 26)
        strokes.append(_rect(x, y, x + w, y + h, shaded(wall, 0.75)))
        strokes.append(_rect(x + 2, y + 2, x + w - 2, y + h - 2, varied(rng, rng.choice(SKIES), 25)))
    for y in range(int(edge) + 14, height, rng.randint(16, 26)):
        strokes.append(Stroke("line", (0, y, width, y), shaded(floor, 0.94), 1.0))
    if rng.random() < 0.4:
        x, y = rng.uniform(40, width - 40), height * rng.uniform(0.6, 0.85)
        strokes.append(Stroke("ellipse", (x - 60, y - 14, x + 60, y + 14), varied(rng, shaded(floor, 1.12), 20)))
    return strokes


def _landscape(rng: Random, width: int, height: int) -> list[Stroke]:
    sky, ground = varied(rng, rng.choice(SKIES)), varied(rng, rng.choice(GROUNDS))
    edge = height * rng.uniform(0.22, 0.38)
    strokes = [_rect(0, 0, width, edge, sky), _rect(0, edge, width, height, ground)]
    for _ in range(rng.randint(0, 3)):
        x, y, w = rng.uniform(0, width), rng.uniform(5, edge * 0.7), rng.uniform(12, 26)
        strokes.append(Stroke("ellipse", (x - w, y - w * 0.3, x + w, y + w * 0.3), (245, 247, 250)))
    if rng.random() < 0.4:
        x, r = rng.uniform(0, width), rng.uniform(50, 110)
        hill = (x - r, edge + 1, x - r * 0.4, edge * 0.5, x + r * 0.3, edge * 0.55, x + r, edge + 1)
        strokes.append(Stroke("polygon", hill, shaded(ground, 0.82)))
    for _ in range(rng.randint(0, 3)):
        x, r = rng.uniform(0, width), rng.uniform(9, 16)
        strokes.append(Stroke("line", (x, edge + 3, x, edge - r), (120, 95, 70), 4.0))
        leaf = varied(rng, (110, 155, 95))
        strokes.append(Stroke("ellipse", (x - r, edge - 2.4 * r, x + r, edge - 0.5 * r), leaf))
    if rng.random() < 0.35:
        y = height * rng.uniform(0.45, 0.6)
        strokes.append(_rect(0, y, width, y + height * 0.12, shaded(ground, 0.88)))
    for _ in range(rng.randint(0, 10)):
        x, y = rng.uniform(0, width), rng.uniform(edge + 5, height)
        strokes.append(Stroke("line", (x, y, x + 4, y - 3), shaded(ground, 0.8), 1.5))
    return strokes
