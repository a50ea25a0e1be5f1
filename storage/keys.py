"""Keys: everything that decides an artifact's bytes, and nothing else (docs/design.md, Stages, partitions, keys, artifacts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.digests import digest_json


@dataclass(frozen=True)
class KeyTerms:
    """The terms of one artifact's key.

    `settings` holds only the fields that change rows (no batch size, device, worker count or path), `inputs` the content
    digests of the artifacts read, by table, and `weights` the digests of the model files used, by role.
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
