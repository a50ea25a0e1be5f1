"""Judges stated triplets against the planted truth."""

from collections.abc import Iterable

from scenes.predicates import CANONICAL, SYMMETRIC
from scenes.scene import Scene

Triplet = tuple[str, str, str]
_SYMMETRIC = frozenset(CANONICAL[p] for p in SYMMETRIC)


def planted_triplets(scene: Scene) -> set[Triplet]:
    """(subject category, canonical predicate, object category), one order of each symmetric relation."""
    return {(s, CANONICAL[p], o) for s, p, o in scene.triplets()}


def closure(triplets: Iterable[Triplet]) -> set[Triplet]:
    """The triplets and, for symmetric predicates, their reverses."""
    known = set(triplets)
    return known | {(o, p, s) for s, p, o in known if p in _SYMMETRIC}


def true_pairs(scene: Scene) -> set[tuple[int, str, int]]:
    """All true (subject position, canonical predicate, object position), symmetric ones in both orders."""
    pairs = {(r.subject, CANONICAL[r.predicate], r.object) for r in scene.relations}
    return pairs | {(o, p, s) for s, p, o in pairs if p in _SYMMETRIC}


def judge(stated: Iterable[Triplet], planted: Iterable[Triplet]) -> tuple[set[Triplet], set[Triplet]]:
    """(stated triplets that are true, planted triplets that were stated); both in canonical form."""
    stated, planted = set(stated), set(planted)
    true = stated & closure(planted)
    found = planted & closure(stated)
    return true, found
