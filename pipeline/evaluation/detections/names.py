"""Matches the names of two lists, such as those of a file and of a ground truth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.evaluation.relations import Integers
from tagger.categories.names import without_case


def matched(names: Iterable[str], own: Sequence[str], form: Callable[[str], str] | None = None) -> Integers:
    """The place in `own` of each name, -1 for none. Case, underscores and white space do not count.

    With `form`, names of the same form match, too, where only one of `own` has it.
    """
    exact = {name: place for place, name in enumerate(own)}
    loose: dict[str, int] = {}
    for name, place in exact.items():
        loose.setdefault(without_case(name), place)
    by_form: dict[str, int] = {}
    if form is not None:
        for name, place in exact.items():
            by_form[form(name)] = -1 if form(name) in by_form else place
    places = []
    for name in names:
        place = exact.get(name, loose.get(without_case(name), -1))
        places.append(by_form.get(form(name), -1) if place < 0 and form is not None else place)
    return np.array(places, np.int64)


def counted_names(objects: Sequence[str]) -> Sequence[str]:
    """The object names that indices of files without names refer to: COCO's 80 in its order, if `objects` are these."""
    coco = tuple(COCO_CATEGORIES.values())
    return coco if set(objects) == set(coco) else objects


def listed(names: Iterable[str], most: int = 200) -> str:
    """The first names in quotes, and how many more there are."""
    every = list(names)
    more = f", and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(repr(name) for name in every[:most]) + more


def distinct(names: Iterable[str], known: Collection[str] = ()) -> tuple[str, ...]:
    """The stripped names, as a text encoder reads them: with spaces for underscores, except in `known` names.

    Of names that differ only in case or underscores, the first is kept.
    """
    kept: dict[str, str] = {}
    for name in map(str.strip, names):
        spaced = name if name in known else name.replace("_", " ").strip()
        if spaced:
            kept.setdefault(without_case(name), spaced)
    return tuple(kept.values())
