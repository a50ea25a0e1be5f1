"""Generates synthetic scenes: `make_scene(seed, index)` gives the same scene on every machine."""

from random import Random

import numpy as np

from scenes.backdrop import make_backdrop
from scenes.draw import label_map
from scenes.group import NOBODY, Group
from scenes.ink import Stroke
from scenes.interactions import GAP, INDOORS, MAKERS, OUTDOORS, alone
from scenes.rules import CLEAR, Placed, TooCloseToCallError, spatial_relations
from scenes.scene import Relation, Scene, SceneObject

MAX_OBJECTS = 8
SMALLEST_UNIT = 58.0
LARGEST_UNIT = 100.0
MARGIN = 4.0
LEAST_VISIBLE = 0.35
COMPANIONS = ("person", "person", "dog", "suitcase", "bicycle", "chair", "cow")


def make_scene(seed: int, index: int) -> Scene:
    """Generates scene number `index` of a seed. Raises RuntimeError if 200 attempts give no unambiguous layout."""
    for attempt in range(200):
        try:
            return _attempt(Random(f"{seed}/{index}/{attempt}"), seed, index)
        except TooCloseToCallError:
            continue
    raise RuntimeError(f"scene {index} of seed {seed}: all 200 layouts were too close to call; use another seed")


def _attempt(rng: Random, seed: int, index: int) -> Scene:
    width, height = rng.randrange(208, 257, 4), rng.randrange(168, 209, 4)
    indoor = rng.random() < 0.4
    kinds = INDOORS if indoor else OUTDOORS
    rows = 1 if rng.random() < 0.25 else 2
    unit = min(LARGEST_UNIT, height * (0.5 if rows == 1 else 0.37))
    bases = [height * rng.uniform(0.84, 0.95)] if rows == 1 else [height * rng.uniform(0.46, 0.49), height * 0.96]
    objects: list[tuple[Group, float, float, float]] = []
    groups: list[list[Group]] = []
    wanted: set[str] = set()
    for _ in bases:
        row: list[Group] = []
        for _ in range(3):
            if not row or not wanted or rng.random() < 0.65:
                group = MAKERS[rng.choice(kinds)](rng)
                if rng.random() < 0.18:
                    group.beside(rng.choice(COMPANIONS), rng.uniform(*GAP), rng.choice((-1, 1)))
            else:
                group = alone(rng, rng.choice(sorted(wanted)))
            if row and _unit([*row, group], width) < SMALLEST_UNIT:
                break
            row.append(group)
            wanted |= {d.category for d in group.drafts if d.category not in ("tie",)}
        rng.shuffle(row)
        groups.append(row)
    for row, base in zip(groups, bases, strict=True):
        scale = min(unit, _unit(row, width), *((base - 2 if len(bases) == 1 or base is bases[0] else height * 0.46)
                                               / g.extent()[3] for g in row))  # fmt: skip
        if scale < SMALLEST_UNIT * 0.9:
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
        share = len(xs) / max(1, int(np.count_nonzero(alone_map)))
        if share < LEAST_VISIBLE:
            raise TooCloseToCallError
        x0, y0, x1, y1 = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
        full = (spot.box[0], spot.box[1], spot.box[2] - spot.box[0], spot.box[3] - spot.box[1])
        objects.append(
            SceneObject(draft.category, (x0, y0, x1 - x0, y1 - y0), full, spot.base, draft.grounded, draft.noun,
                        draft.colour, share)
        )  # fmt: skip
    relations = tuple(Relation(*r) for r in planted)
    backdrop = make_backdrop(rng, width, height, indoor)
    return Scene(seed, index, width, height, tuple(objects), relations, indoor, backdrop, tuple(strokes))
