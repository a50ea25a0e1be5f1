"""Writes JSON files of any length, one element at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def write_list(path: Path, elements: Iterable[Any], within: str = "") -> int:
    """Writes a JSON array, or an object whose only field `within` is one. Returns the array's number of elements."""
    ends = (f'{{"{within}": [', "]}") if within else ("[", "]")
    return _write(path, ends, (_text(element) for element in elements))


def write_object(path: Path, fields: Iterable[tuple[str, Any]]) -> int:
    """Writes a JSON object with unique names. Returns its number of fields."""
    return _write(path, ("{", "}"), (f"{_text(name)}: {_text(value)}" for name, value in fields))


def number(value: float) -> float:
    """Returns the shortest decimal that rounds to the float32 value: 412.8, not 412.79998779296875."""
    return float(str(np.float32(value)))


def _write(path: Path, ends: tuple[str, str], texts: Iterable[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(ends[0])
        for text in texts:
            file.write(f",\n{text}" if count else text)
            count += 1
        file.write(ends[1] + "\n")
    return count


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
