"""Matches the names of two lists, such as those of a file and of a ground truth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.evaluation.relations import Integers
from pipeline.runtime.wording import first_few
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
    return first_few(list(map(repr, names)), most)


def distinct(names: Iterable[str], known: Collection[str] = ()) -> tuple[str, ...]:
    """The names as a text encoder reads them: those that it learned (`known`) as it did, others without underscores.

    Case and underscores do not distinguish names: of several, the first is kept.
    """
    own = [name.strip() for name in known]
    learned = {without_case(name): name for name in reversed(own)} | dict(zip(own, own, strict=True))
    kept: dict[str, str] = {}
    for name in map(str.strip, names):
        form = without_case(name)
        kept.setdefault(form, learned.get(name, learned.get(form, name.replace("_", " ").strip())))
    return tuple(filter(None, kept.values()))
