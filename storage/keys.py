"""Keys: everything that decides an artifact's bytes, and nothing else; and the terms in which two keys differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.digests import digest_json


@dataclass(frozen=True)
class KeyTerms:
    """The terms of one artifact's key.

    `settings` holds only the fields that change rows (no batch size, device, worker count or path), `inputs` the
    content digests of the artifacts read, by table, and `weights` the digests of the model files used, by role.
    """

    stage: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, Sequence[str]]
    weights: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The terms as plain JSON, in the form that is hashed and kept in the manifest."""
        return dict(vars(self))

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON of the terms."""
        return digest_json(self.as_json())


_ORDER = ("version", "settings", "weights", "inputs")
"""Terms in the order of reporting: a person's own change before what follows from it."""
_IN_WORDS = {"inputs.records": "data.sources, annotations or image files"}
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
    old, new = _as_list(old), _as_list(new)
    return [] if old == new else [Change(name, old, new)]


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    """A value in a few words: the only item of a list, the first 12 characters of a digest."""
    if value is None:
        return "unset"
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text if len(text) <= 60 else f"{text[:57]}..."
