"""Compares parameters with those that a network expects, and summarises the differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Shape = tuple[int, ...]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def state_dict_diff(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], known_as: Mapping[str, str]
) -> list[str]:
    """Returns a line for each kind of mismatch: missing, unexpected, or of another shape.

    Parameters are reported under their names in `known_as`, where it has them.
    """
    lines = []
    if missing := expected.keys() - found.keys():
        lines.append(f"missing: {summary(missing)}")
    if unexpected := found.keys() - expected.keys():
        lines.append(f"unexpected: {summary(known_as.get(name, name) for name in unexpected)}")
    mismatched: dict[tuple[Shape, Shape], list[str]] = {}
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            mismatched.setdefault((found[name], expected[name]), []).append(known_as.get(name, name))
    for (has, wants), names in mismatched.items():
        lines.append(f"shape {has}, but the network expects {wants}: {summary(names)}")
    return lines


def summary(names: Iterable[str]) -> str:
    """Joins the grouped names into one line."""
    return ", ".join(grouped(names))


def grouped(names: Iterable[str]) -> list[str]:
    """Sorts names and merges those that differ only in numbers: `layers.*.norm.weight (6)`."""
    together: dict[str, list[str]] = {}
    for name in sorted(names):
        together.setdefault(_NUMBER.sub("*", name), []).append(name)
    return [same[0] if len(same) == 1 else f"{pattern} ({len(same)})" for pattern, same in together.items()]


def by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns sorted names by the part of the network that they belong to, e.g. backbone or transformer.encoder."""
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        first, _, rest = name.partition(".")
        part = f"{first}.{rest.partition('.')[0]}" if first == "transformer" else first
        parts.setdefault(part, []).append(name)
    return parts
