"""Makes groups of figures. Each function plants one relation by construction."""

from collections.abc import Callable
from random import Random

from scenes.figures import person as body
from scenes.figures.animals import BUILDS
from scenes.figures.objects import SURFACES
from scenes.group import NOBODY, ROOFS, Group, PersonFigure, UnplacedObject

GAP = (0.03, 0.07)
"""Minimum and maximum gap between neighbours, in units."""


def _facing(rng: Random) -> int:
    return rng.choice((-1, 1))


def ride(rng: Random, mount: str | None = None) -> Group:
    """A person astride an animal or a two-wheeler, or standing on a skateboard."""
    group, f = Group(rng), _facing(rng)
    mount = mount or rng.choice(("horse", "horse", "bicycle", "motorcycle", "elephant", "skateboard"))
    it = group.add(mount, 0.0, facing=f)
    if mount == "skateboard":
        rider = PersonFigure(group, 0.0, 0.11, facing=f, pose=rng.choice(("stand", "walk")), grounded=False)
        rider.reach((0.34, rider.hip + 0.22))
        rider.reach((-0.34, rider.hip + 0.2), side=-1)
    else:
        seat = {"horse": 0.55, "elephant": 0.68, "bicycle": 0.5, "motorcycle": 0.42}[mount]
        x = {"horse": -0.04, "elephant": -0.08, "bicycle": -0.12, "motorcycle": -0.15}[mount]
        rider = PersonFigure(group, f * x, 0.0, facing=f, pose="ride", hip=seat, grounded=False)
        rider.reach((0.3, rider.hip + 0.04), bend=0.03)
        rider.free.clear()
    group.planted.append((rider.finish(), "riding", it))
    return group


def sit(rng: Random) -> Group:
    """A person on a seat with the legs bent over its edge, sometimes holding something."""
    group, f = Group(rng), _facing(rng)
    seat = rng.choice(("bench", "bench", "chair", "chair", "couch", "bed"))
    it = group.add(seat, 0.0, facing=f)
    left, right, height = SURFACES[seat]
    x = 0.0 if seat == "chair" else rng.uniform(left + 0.2, right - 0.3)
    sitter = PersonFigure(group, f * x, 0.0, facing=f, pose="sit", hip=height + 0.05, grounded=False)
    if rng.random() < 0.3:
        sitter.take(rng.choice(("book", "cup")), "holding")
    group.planted.append((sitter.finish(), "sitting on", it))
    return group


def lie(rng: Random) -> Group:
    """A cat, a dog or a person lying on furniture."""
    group, f = Group(rng), _facing(rng)
    who = rng.choice(("cat", "dog", "person"))
    where = "bed" if who == "person" else rng.choice(("couch", "couch", "bed", "bench"))
    it = group.add(where, 0.0, facing=f)
    left, right, height = SURFACES[where]
    if who == "person":
        looks = body.draw_looks(rng)
        me = len(group.drafts)
        group.drafts.append(UnplacedObject("person", looks.kind, looks.shirt_name, 0.0, False))
        body.lying(group.pen(me, f * -0.45, height, looks.size, f), looks)
    else:
        x = rng.uniform(left + 0.25, right - 0.3)
        me = group.add(who, f * x, height, facing=f, pose="lie", grounded=False)
    group.planted.append((me, "lying on", it))
    return group


def hold(rng: Random) -> Group:
    """A person holding an object out in front, or an umbrella."""
    group = Group(rng)
    someone = PersonFigure(group, 0.0, facing=_facing(rng))
    someone.take(rng.choice(("umbrella", "umbrella", "cup", "book", "sports ball", "apple")), "holding")
    someone.finish()
    return group


def carry(rng: Random) -> Group:
    """A person carrying an object in the lowered arm."""
    group = Group(rng)
    someone = PersonFigure(group, 0.0, facing=_facing(rng), pose=rng.choice(("stand", "walk")))
    someone.take(rng.choice(("suitcase", "handbag", "backpack")), "carrying")
    someone.finish()
    return group


def wear(rng: Random) -> Group:
    """A person with a tie on the chest or a backpack on the back."""
    group = Group(rng)
    someone = PersonFigure(group, 0.0, facing=_facing(rng), gear=False)
    # The backpack is behind the body, so the body is drawn again on top of it.
    if rng.random() < 0.5:
        someone.wear("tie")
    else:
        group.strokes.clear()
        someone.wear("backpack")
        body.legs(someone.pen, someone.looks, "stand", someone.hip)
        body.trunk(someone.pen, someone.looks, someone.hip)
        someone.straps()
    someone.finish()
    return group


def walk(rng: Random) -> Group:
    """A person with a dog on a leash."""
    group, f = Group(rng), _facing(rng)
    walker = PersonFigure(group, 0.0, facing=f, pose="walk")
    dog = group.add("dog", f * 0.82, facing=f)
    hand = (0.27, walker.hip + 0.06)
    walker.reach(hand)
    x, y = walker.pen.place(*hand)
    group.pen(NOBODY, 0, 0).line([(x, y), (f * 1.0, 0.27)], 0.022, (190, 30, 40))
    group.planted.append((walker.finish(), "walking", dog))
    return group


def kick(rng: Random) -> Group:
    """A person kicking a ball."""
    group, f = Group(rng), _facing(rng)
    kicker = PersonFigure(group, 0.0, facing=f, pose="kick")
    foot = kicker.pen.place(0.33, 0.13)
    ball = group.add("sports ball", foot[0] + f * 0.16, max(0.0, foot[1] - 0.06), grounded=False)
    kicker.reach((-0.3, kicker.hip + 0.16), side=-1)
    group.planted.append((kicker.finish(), "kicking", ball))
    return group


def look(rng: Random) -> Group:
    """A person looking, in profile, at something a short distance away."""
    group, f = Group(rng), _facing(rng)
    target = rng.choice(("tv", "tv", "dog", "cat", "bird", "horse", "cow", "sheep"))
    viewer = PersonFigure(group, 0.0, facing=f, profile=True).finish()
    it = group.beside(target, rng.uniform(0.3, 0.42), f)
    group.planted.append((viewer, "looking at", it))
    return group


def eat(rng: Random) -> Group:
    """An animal with its head down at an apple."""
    group, f = Group(rng), _facing(rng)
    who = rng.choice(("horse", "cow", "sheep", "elephant"))
    me = group.add(who, 0.0, facing=f, pose="graze")
    b = BUILDS[who]
    x = b.length / 2 + b.neck[0] + 0.06 + {"horse": 0.12, "cow": 0.12, "sheep": 0.12, "elephant": 0.22}[who]
    it = group.add("apple", f * x, 0.0, grounded=False)
    group.planted.append((me, "eating", it))
    return group


ON: dict[str, tuple[str, ...]] = {
    "dining table": ("cup", "book", "laptop", "apple", "cup", "laptop"),
    "bench": ("book", "backpack", "handbag", "bird"),
    "chair": ("book", "backpack", "cup"),
    "couch": ("book", "laptop", "handbag"),
    "bed": ("laptop", "suitcase", "book"),
    "car": ("bird",),
}
UNDER: dict[str, tuple[str, ...]] = {
    "dining table": ("dog", "cat", "sports ball", "suitcase", "backpack"),
    "bench": ("sports ball", "sports ball", "apple"),
}


def _rest(group: Group, support: str, facing: int, count: int) -> None:
    left, right, height = SURFACES.get(support) or ROOFS[support]
    narrow = right - left < 0.5
    places = [(left + right) / 2] if narrow else [left + 0.26 * (right - left), left + 0.74 * (right - left)]
    group.rng.shuffle(places)
    things = group.rng.sample(sorted(set(ON[support])), min(count, len(set(ON[support]))))
    for thing, x in zip(things, places, strict=False):
        x += 0.0 if narrow else group.rng.uniform(-0.06, 0.06)
        group.add(thing, facing * x, height, grounded=False, rests=True)


def on(rng: Random) -> Group:
    """Objects on furniture, or a bird on a car's roof, sometimes with something under a table."""
    group, f = Group(rng), _facing(rng)
    support = rng.choice(("dining table", "dining table", *ON))
    group.add(support, 0.0, facing=f)
    _rest(group, support, f, rng.choice((1, 1, 2)))
    if support == "dining table" and rng.random() < 0.3:
        _beneath(group, support)
    return group


def _beneath(group: Group, support: str) -> None:
    what = group.rng.choice(UNDER[support])
    pose = "lie" if what in BUILDS else "stand"
    group.add(what, group.rng.uniform(-0.1, 0.1), 0.0, facing=_facing(group.rng), pose=pose)


def under(rng: Random) -> Group:
    """An object under furniture, sometimes with another on top."""
    group, f = Group(rng), _facing(rng)
    support = rng.choice(("dining table", "dining table", "bench"))
    group.add(support, 0.0, facing=f)
    _beneath(group, support)
    if rng.random() < 0.35:
        _rest(group, support, f, 1)
    return group


NEIGHBOURS = ("person", "person", "person", "dog", "cat", "horse", "cow", "sheep", "suitcase", "bicycle", "chair")
LANDMARKS = ("car", "bench", "bicycle", "motorcycle", "bus", "couch", "horse", "elephant", "dog", "cow", "chair", "bed")
REARS = ("person", "person", "person", "horse", "cow", "elephant", "bus")
FRONTS = ("car", "bench", "couch", "motorcycle", "sheep", "chair", "suitcase")


def next_to(rng: Random) -> Group:
    """Two figures side by side that do not touch."""
    group = Group(rng)
    first = rng.choice(LANDMARKS)
    group.add(first, 0.0, facing=_facing(rng))
    group.beside(rng.choice([n for n in NEIGHBOURS if n != first]), rng.uniform(*GAP), _facing(rng))
    return group


def behind(rng: Random) -> Group:
    """Two figures, of which the front one partly hides the rear one."""
    group = Group(rng)
    rear = rng.choice(REARS)
    front = rng.choice([f for f in FRONTS if rear == "person" or f in ("sheep", "motorcycle", "bench", "car")])
    lift = rng.uniform(0.15, 0.22)
    if rear == "person":
        PersonFigure(group, 0.0, lift, facing=_facing(rng)).finish()
    else:
        group.add(rear, 0.0, lift, facing=_facing(rng))
    narrow = front in ("suitcase", "chair")
    group.add(front, rng.uniform(-0.05, 0.05) if narrow else rng.uniform(-0.25, 0.25), 0.0, facing=_facing(rng))
    return group


def alone(rng: Random, category: str) -> Group:
    """One figure without a planted relation."""
    group = Group(rng)
    if category == "person":
        PersonFigure(group, 0.0, facing=_facing(rng), gear=False).finish()
    else:
        group.add(category, 0.0, facing=_facing(rng), scale=1.15 if category in ("cup", "book", "apple") else 1.0)
    return group


MAKERS: dict[str, Callable[[Random], Group]] = {
    "riding": ride, "holding": hold, "carrying": carry, "wearing": wear, "sitting on": sit, "lying on": lie,
    "next to": next_to, "behind": behind, "under": under, "on": on, "looking at": look, "walking": walk,
    "kicking": kick, "eating": eat,
}  # fmt: skip

INDOORS = ("sitting on", "lying on", "holding", "wearing", "on", "under", "looking at", "next to", "behind")
OUTDOORS = (
    "riding", "riding", "holding", "carrying", "wearing", "sitting on", "next to", "behind", "looking at", "walking",
    "kicking", "eating", "on",
)  # fmt: skip


def group_of_a_kind(rng: Random, indoor: bool) -> Group:
    """Makes a group with one of the relations that occur indoors or outdoors."""
    return MAKERS[rng.choice(INDOORS if indoor else OUTDOORS)](rng)
