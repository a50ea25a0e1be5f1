"""Captions cut at the words of their triplets, so that each word can be linked to the triplets that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

ROLES = ("subject", "predicate", "object")


class Piece(NamedTuple):
    """A stretch of a caption. `marks`: (triplet, role) of each triplet that it is a word of; most pieces have none or one."""

    text: str
    marks: tuple[tuple[int, str], ...]


def pieces(text: str, triplets: Mapping[int, Mapping[str, Any]]) -> list[Piece]:
    """Cuts a caption. `triplets`: number → row of table `triplets`, of this caption only.

    Offsets that do not fit the text, as those of another caption would, mark nothing.
    """
    spans = [
        (row[f"{role}_start"], row[f"{role}_end"], number, role)
        for number, row in triplets.items()
        for role in ROLES
        if 0 <= row[f"{role}_start"] < row[f"{role}_end"] <= len(text)
    ]
    cuts: Sequence[int] = sorted({0, len(text), *(at for start, end, *_ in spans for at in (start, end))})
    return [
        Piece(text[start:end], tuple((n, role) for first, last, n, role in spans if first <= start and end <= last))
        for start, end in pairwise(cuts)
    ]
