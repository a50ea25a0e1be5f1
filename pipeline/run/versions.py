"""Installed packages beside the ranges that this project was tested with, as its own metadata state them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement


def stated_ranges(package: str = "rlip", extras: Iterable[str] = ()) -> list[Requirement]:
    """What the package asks for, with some of its extras; nothing where it runs without being installed."""
    try:
        stated = distribution(package).requires or []
    except PackageNotFoundError:
        return []
    environments = [{"extra": extra} for extra in ("", *extras)]
    wanted = [Requirement(line) for line in stated]
    return [w for w in wanted if w.marker is None or any(w.marker.evaluate(each) for each in environments)]


def unmet(requirements: Iterable[Requirement]) -> Iterator[str]:
    """A line for each that is absent or of another version, with what to do."""
    for wanted in requirements:
        asked = f"{wanted.name}{wanted.specifier}"
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is not installed: pip install '{asked}'"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} is {found}, tested with {wanted.specifier}: pip install '{asked}'"
