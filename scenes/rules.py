"""Spatial relations by geometric rules. They test every pair of a scene, so that the ground truth is complete.

All lengths are in pixels. A scene with a pair that is too close to call is discarded.
"""

from dataclasses import dataclass

NEAR = 9.0
"""Maximum gap between the boxes of neighbours."""
CLEAR = 13.0
"""Minimum gap between the boxes of objects that are not neighbours."""
LEVEL = 5.0
"""Objects on the same ground line differ in height by less than this."""


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


def _gap(a: Placed, b: Placed) -> float:
    return max(a.box[0], b.box[0]) - min(a.box[2], b.box[2])


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
    gap = _gap(a, b)
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
    found: list[tuple[int, str, int]] = []
    for i, a in enumerate(placed):
        for j, b in enumerate(placed):
            if i == j or (i, j) in planted:
                continue
            if on(a, b):
                found.append((i, "on", j))
            elif under(a, b):
                found.append((i, "under", j))
            elif on(b, a) or under(b, a):
                continue
            elif behind(a, b):
                found.append((i, "behind", j))
            elif not behind(b, a) and i < j and next_to(a, b):
                found.append((i, "next to", j))
    return found
