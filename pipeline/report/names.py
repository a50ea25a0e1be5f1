"""Display names of names in files and settings (names.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

NAMES: Mapping[str, Mapping[str, str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
"""Kind of name → name → how it is shown."""


def shown_name(kind: str, name: str) -> str:
    """How a name is shown: as the file says, or else as it is, with blanks."""
    return NAMES[kind].get(name, name.replace("_", " "))
