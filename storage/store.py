"""What a store is: in a folder or at a URL.

The classes share no base: one would override half of the other's methods.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from storage.artifact import Artifact
from storage.errors import FatalError

if TYPE_CHECKING:  # they import this module
    from storage.local_store import LocalStore
    from storage.remote_store import RemoteStore

STAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredEntry:
    """What is at an artifact's place: the artifact, or the remains of one."""

    stage: str
    key: str
    whole: bool
    size: int
    """Bytes."""
    used: float
    """Unix time at which it was made or last found by a run."""


Store: TypeAlias = "LocalStore | RemoteStore"
"""A store in a folder or at a URL: artifacts by stage and key, the records of runs, and a working area on this machine.

An artifact is immutable and exists once its manifest does. Both classes have the same methods, which `LocalStore`
describes. They raise `FatalError` for what a person must fix, e.g. a full disk, and `RetryableError` for what may pass.
"""


def locate(store: Store, key: str) -> Artifact | None:
    """The committed artifact of a key whose stage is unknown."""
    return next((found for stage in store.stages() if (found := store.find(stage, key)) is not None), None)


def require_valid_address(stage: str, key: str) -> None:
    """Raise `FatalError` unless these are a stage name and a key. Other names could lead out of the store."""
    if not (STAGE_NAME.fullmatch(stage) and KEY.fullmatch(key)):
        raise FatalError(f"{stage[:40]!r}, {key[:80]!r}: not a stage and a key; the file that names them is damaged")
