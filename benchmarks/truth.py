"""Judges stated triplets against the planted relations."""

from collections.abc import Iterable

from scenes.names import CANONICAL, SYMMETRIC
from scenes.scene import Scene

Triplet = tuple[str, str, str]
_SYMMETRIC = frozenset(CANONICAL[p] for p in SYMMETRIC)


def planted_triplets(scene: Scene) -> set[Triplet]:
    """Returns (subject category, canonical predicate, object category), with one order of each symmetric relation."""
    return {(s, CANONICAL[p], o) for s, p, o in scene.triplets()}


def closure(triplets: Iterable[Triplet]) -> set[Triplet]:
    """Returns the triplets and the reverses of those with symmetric predicates."""
    known = set(triplets)
    return known | {(o, p, s) for s, p, o in known if p in _SYMMETRIC}


def judge(stated: Iterable[Triplet], planted: Iterable[Triplet]) -> tuple[set[Triplet], set[Triplet]]:
    """Returns (stated triplets that are true, planted triplets that were stated), in canonical form."""
    stated, planted = set(stated), set(planted)
    true = stated & closure(planted)
    found = planted & closure(stated)
    return true, found
