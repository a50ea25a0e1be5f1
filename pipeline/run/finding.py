"""What a check before a run found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of one check. Only state `missing` stops a run."""

    state: Literal["ok", "missing", "note"]
    what: str
    detail: str
