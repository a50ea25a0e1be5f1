"""Matches the names of a file with those of a ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pipeline.evaluation.interactions import Integers


def matched(names: Iterable[str], own: Sequence[str], form: Callable[[str], str] | None = None) -> Integers:
    """The place in `own` of each name, -1 for none. Case, underscores and white space do not count.

    With `form`, names of one form are equal too where only one of `own` has it.
    """
    exact = {name: place for place, name in enumerate(own)}
    plain: dict[str, int] = {}
    for name, place in exact.items():
        plain.setdefault(_plain(name), place)
    by_form: dict[str, int] = {}
    if form is not None:
        for name, place in exact.items():
            by_form[form(name)] = -1 if form(name) in by_form else place
    found = []
    for name in names:
        place = exact.get(name, plain.get(_plain(name), -1))
        found.append(by_form.get(form(name), -1) if place < 0 and form is not None else place)
    return np.array(found, np.int64)


def listed(names: Iterable[str], most: int = 200) -> str:
    """The first names in quotes, and how many more there are."""
    found = list(names)
    more = f", and {len(found) - most:,} more" if len(found) > most else ""
    return ", ".join(repr(name) for name in found[:most]) + more


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
