"""Maps ids to names: COCO's 80 categories, and lists of names read from a file."""

from __future__ import annotations

from pathlib import Path

import scenes.names
from pipeline.data.datasets.annotations import AnnotationError, as_id, parse_json, read_text

_EXPECTED = 'names by id: a JSON list of names, a JSON object {"name": id}, or lines such as "001 ride"'

COCO_CATEGORIES = {number: name for name, number in scenes.names.COCO_CATEGORIES.items()}
"""COCO's category names by id, 1 to 90 with gaps."""


def read_names(path: Path) -> dict[int, str]:
    """Reads names by id (from 1 if the file has no ids), with spaces for underscores. Raises `AnnotationError`."""
    text = read_text(path, _EXPECTED)
    names = _from_json(text) if text.lstrip()[:1] in ("[", "{") else _from_lines(text)
    if not names:
        raise AnnotationError(f"{path}: no names found; expected {_EXPECTED}")
    return {number: name.strip().replace("_", " ") for number, name in names.items()}


def _from_json(text: str) -> dict[int, str]:
    try:
        content = parse_json(text)
    except (ValueError, RecursionError):
        return {}
    pairs = enumerate(content, start=1) if isinstance(content, list) else ((i, name) for name, i in content.items())
    names = {as_id(number): name for number, name in pairs}
    valid = all(number is not None and isinstance(name, str) for number, name in names.items())
    return {number: name for number, name in names.items() if number is not None} if valid else {}


def _from_lines(text: str) -> dict[int, str]:
    words = [line.split(maxsplit=1) for line in text.splitlines()]
    return {int(pair[0]): pair[1] for pair in words if len(pair) == 2 and pair[0].isdecimal()}
