"""Differences between the terms of two keys: the answer to "why was this computed?"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ORDER = ("version", "settings", "weights", "inputs")
"""Terms in the order of reporting: a person's own change before what follows from it."""
_IN_WORDS = {"inputs.records": "annotations or image files"}
"""Descriptions of terms whose names mean nothing to people."""


@dataclass(frozen=True)
class Change:
    """One differing term of a key: its dotted name, e.g. `settings.top_p` or `inputs.images`, and both values."""

    term: str
    old: Any
    new: Any

    @property
    def name(self) -> str:
        """The differing term in words."""
        return _IN_WORDS.get(self.term, self.term.removeprefix("settings."))

    @property
    def is_content(self) -> bool:
        """Whether the content that was read differs, rather than something that a person set."""
        return self.term.startswith("inputs.")

    def __str__(self) -> str:
        if isinstance(self.old, list) and isinstance(self.new, list) and len(self.old) != len(self.new):
            return f"{self.name}: {len(self.old)} → {len(self.new)} artifacts"
        return f"{self.name}: {_short(self.old)} → {_short(self.new)}"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The terms that differ, most informative first. Takes terms as returned by `KeyTerms.as_json`."""
    return [change for term in _ORDER for change in _differ(term, old.get(term), new.get(term))]


def _differ(name: str, old: Any, new: Any) -> list[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted(old.keys() | new.keys())
        return [change for key in names for change in _differ(f"{name}.{key}", old.get(key), new.get(key))]
    old, new = (list(value) if isinstance(value, tuple) else value for value in (old, new))
    return [] if old == new else [Change(name, old, new)]


def _short(value: Any) -> str:
    """A value in a few words: the only item of a list, the first 12 characters of a digest."""
    if value is None:
        return "unset"
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text if len(text) <= 60 else f"{text[:57]}..."
