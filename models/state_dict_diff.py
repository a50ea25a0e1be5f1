"""Whether parameters fit a network, and what does not, in few words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Shape = tuple[int, ...]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def state_dict_diff(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], known_as: Mapping[str, str]
) -> list[str]:
    """A line for each way in which parameters do not fit: missing, unexpected, of another shape.

    Parameters are called by the names in `known_as` where it has them.
    """
    lines = []
    if missing := expected.keys() - found.keys():
        lines.append(f"missing: {summary(missing)}")
    if unexpected := found.keys() - expected.keys():
        lines.append(f"unexpected: {summary(known_as.get(name, name) for name in unexpected)}")
    unlike: dict[tuple[Shape, Shape], list[str]] = {}
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            unlike.setdefault((found[name], expected[name]), []).append(known_as.get(name, name))
    for (has, wants), names in unlike.items():
        lines.append(f"of shape {has} where the network has {wants}: {summary(names)}")
    return lines


def summary(names: Iterable[str]) -> str:
    """All names in one line."""
    return ", ".join(grouped(names))


def grouped(names: Iterable[str]) -> list[str]:
    """All names, those that differ in numbers only taken together: `layers.*.norm.weight (6)`."""
    together: dict[str, list[str]] = {}
    for name in sorted(names):
        together.setdefault(_NUMBER.sub("*", name), []).append(name)
    return [same[0] if len(same) == 1 else f"{pattern} ({len(same)})" for pattern, same in together.items()]
