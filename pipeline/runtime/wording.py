"""Text for people: counts of things, and names from files made safe for a terminal, a page and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

MISSING, UNREADABLE = "missing file", "unreadable file"
"""Reasons to reject an image that say nothing of its content: they may differ between machines and moments."""


def counted(number: int, what: str) -> str:
    """A number of things in words, such as "1 tar", "2 tars" and "2 boxes"."""
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('x') else 's'}"


def first_few(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f", and {len(names) - most:,} more" if len(names) > most else "")


def printable(text: str, keep: str = "") -> str:
    """`text` without control characters and marks that turn its direction, except those of `keep`."""
    return "".join(character if character.isprintable() or character in keep else "�" for character in text)


def one_line(text: str) -> str:
    """`text` without control characters and line breaks."""
    return printable(" ".join(text.split()))


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line: names come from datasets."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", one_line(text))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
