"""The second world: people whose acts have the same boxes, so that only pixels tell them apart.

An act is a gesture (what arms and the gap show) in a direction (what legs and gaze show). Its wordings combine the
words of both, so that a wording which training never saw has a meaning. Figures of one category surround the person,
and the gesture tells which of them is meant.
"""

from collections.abc import Collection
from itertools import chain, product
from random import Random

from scenes.group import NOBODY, Group, PersonFigure
from scenes.ink import Pen, Point
from scenes.interactions import MAKERS, ride
from scenes.names import PREDICATES

LOW, LEVEL, HIGH = 0.02, 0.22, 0.5
"""Heights of a hand over the hip. At each, the hand lies within the person's height."""
REACH = 0.33
"""Distance of both hands from the person's middle, so that all acts have the same boxes."""
APART = (0.3, 0.42)
"""Minimum and maximum gap between a person and the act's object: too large for neighbours."""

GESTURES: dict[tuple[str, str], tuple[float, float, str]] = {
    ("pointing", "gesturing"): (LEVEL, LOW, ""),
    ("waving", "signalling"): (HIGH, LOW, ""),
    ("cheering", "clapping"): (HIGH, LEVEL, ""),
    ("shouting", "calling"): (LEVEL, LOW, "rays"),
    ("singing", "humming"): (LOW, HIGH, "rays"),
    ("swearing", "cursing"): (HIGH, HIGH, "rays"),
    ("spraying", "squirting"): (LEVEL, LOW, "drops"),
    ("splashing", "pouring"): (HIGH, LOW, "drops"),
    ("watering", "sprinkling"): (LOW, HIGH, "drops"),
    ("throwing", "tossing"): (HIGH, LOW, "ball"),
    ("rolling", "bowling"): (LOW, LOW, "ball"),
    ("batting", "swatting"): (HIGH, HIGH, "ball"),
    ("pulling", "tugging"): (LOW, LOW, "rope"),
    ("fishing", "casting"): (HIGH, LOW, "rope"),
}
"""Two verbs for one gesture → heights of the hand on the object's side and of the other hand, and what the gap shows.
If it shows nothing, the higher hand tells the side."""
DIRECTIONS: dict[tuple[str, str], tuple[str, int]] = {
    ("at", "toward"): ("stand", 1),
    ("past", "beyond"): ("walk", -1),
    ("before", "for"): ("stand", 0),
}
"""Two prepositions for one direction → the legs' pose and the gaze: ahead (1), back (-1) or out of the image (0)."""
TARGETS = (
    "person", "person", "horse", "dog", "cat", "cow", "sheep", "bicycle", "motorcycle", "car", "chair", "couch",
    "bench", "suitcase", "backpack", "handbag",
)  # fmt: skip
INDOORS = ("sitting on", "lying on", "on", "under", "next to", "behind")
OUTDOORS = ("riding", "sitting on", "on", "under", "next to", "behind")
"""Predicates that boxes tell apart, which this world has from the first."""

Act = tuple[tuple[str, str], tuple[str, str]]
"""A key of GESTURES and one of DIRECTIONS."""
Combination = tuple[Act, str]
"""An act and a category."""
ACTS: tuple[Act, ...] = tuple(product(GESTURES, DIRECTIONS))
UNSEEN: frozenset[Combination] = frozenset(
    (act, category)
    for (row, act), (column, category) in product(enumerate(ACTS), enumerate(sorted(set(TARGETS))))
    if (row + column) % 5 == 0
)
"""Combinations of an act and a category that only tests have: a fifth."""
UNSEEN_WORDINGS = frozenset(
    f"{verb} {preposition}"
    for (row, verb), (column, preposition) in product(enumerate(chain(*GESTURES)), enumerate(chain(*DIRECTIONS)))
    if row % 6 == column
)
"""Wordings that only tests have: a sixth. Training has their verbs and prepositions in others."""


def wordings(act: Act) -> list[str]:
    """Returns the four wordings of an act."""
    return [f"{verb} {preposition}" for verb, preposition in product(*act)]


def predicates() -> list[str]:
    """Returns the predicates of the second world: those of the first, and all wordings of acts."""
    return [*PREDICATES, *(wording for act in ACTS for wording in wordings(act))]


def seen_group(rng: Random, indoor: bool) -> Group:
    """Makes a group without the combinations and wordings that only tests have."""
    return _group(rng, indoor, UNSEEN, UNSEEN_WORDINGS)


def any_group(rng: Random, indoor: bool) -> Group:
    """Makes a group of all combinations, with all wordings."""
    return _group(rng, indoor, frozenset(), frozenset())


def _group(rng: Random, indoor: bool, without: Collection[Combination], unsaid: Collection[str]) -> Group:
    if rng.random() < 0.15:
        return _from_the_first(rng, indoor)
    idle = rng.random() < 0.1
    act, category = rng.choice(ACTS), rng.choice(TARGETS)
    while (act, category) in without:
        act, category = rng.choice(ACTS), rng.choice(TARGETS)
    (near, far, mark), (pose, gaze) = GESTURES[act[0]], DIRECTIONS[act[1]]
    if idle:
        near, far, mark, pose, gaze = LOW, LOW, "", "stand", 0
    group, facing = Group(rng), rng.choice((-1, 1))
    actor = PersonFigure(group, 0.0, facing=facing if gaze >= 0 else -facing, pose=pose, profile=gaze != 0, gear=False)
    ahead = 1 if gaze >= 0 else -1
    actor.reach((ahead * REACH, actor.hip + near), side=ahead)
    actor.reach((-ahead * REACH, actor.hip + far), side=-ahead)
    me, hand = actor.finish(), actor.pen.place(ahead * REACH, actor.hip + near)
    sides = [facing, *(-facing, facing)[: rng.choice((0, 1, 1, 2))]]
    target, *_ = [group.beside(category, rng.uniform(*APART), side) for side in sides]
    if not idle:
        own = group.extent(target)
        edge = own[0] if facing > 0 else own[2]
        _show(group.pen(NOBODY, 0, 0), mark, hand, (edge, min(hand[1], (own[1] + own[3]) / 2)))
        said = [wording for wording in wordings(act) if wording not in unsaid]
        group.planted += [(me, wording, target) for wording in said]
    return group


def _from_the_first(rng: Random, indoor: bool) -> Group:
    """Makes one of the first world's groups, with what its relation implies."""
    kind = rng.choice(INDOORS if indoor else OUTDOORS)
    if kind != "riding":
        return MAKERS[kind](rng)
    group = ride(rng, rng.choice(("horse", "bicycle", "motorcycle", "elephant")))
    rider, _, mount = group.planted[-1]
    group.planted.append((rider, "sitting on", mount))
    return group


def _show(pen: Pen, mark: str, hand: Point, end: Point) -> None:
    """Draws what the gap between a hand and the act's object shows. It belongs to no object's box."""
    (x, y), (across, up) = hand, (end[0] - hand[0], end[1] - hand[1])
    at = [(x + share * across, y + share * up) for share in (0.3, 0.55, 0.8)]
    if mark == "rope":
        pen.line([hand, end], 0.035, (190, 30, 40))
    elif mark == "ball":
        pen.ellipse(*at[1], 0.075, 0.075, (235, 110, 30))
    elif mark == "drops":
        for place in at:
            pen.ellipse(*place, 0.035, 0.05, (40, 120, 235))
    elif mark == "rays":
        for lift in (-0.12, 0.0, 0.12):
            pen.line([(at[0][0], at[0][1] + lift / 3), (at[2][0], at[0][1] + lift)], 0.03, (250, 215, 40))
