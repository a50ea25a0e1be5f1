"""Reads HICO-DET's list of interactions, in whose order published splits count."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.datasets.annotations import read_text
from storage.errors import FatalError


def read_interactions(path: Path) -> list[tuple[str, str]]:
    """Reads lines with a number, an object and a verb. Returns (verb, object); other lines are headings.

    Raises `FatalError` for a file without such a line.
    """
    cells = [line.split() for line in read_text(path, "HICO-DET's hico_list_hoi.txt").splitlines()]
    found = [(row[-1], row[-2]) for row in cells if len(row) == 3 and row[0].isdigit()]
    if not found:
        raise FatalError(f"{path}: has no line such as '1 airplane board'; use HICO-DET's hico_list_hoi.txt")
    return found
