"""The store protocol, which `LocalStore` and `RemoteStore` implement.

It is a protocol: with a base class, a remote store overrode half of a local one, and callers asked which one they had.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storage.artifact import Artifact
from storage.disk import Disk
from storage.errors import FatalError
from storage.manifest import Manifest

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


class Store(Protocol):
    """Artifacts by stage and key, the records of runs, and a working area on this machine.

    An artifact is immutable and exists once its manifest does. Methods raise `FatalError` for what a person must fix,
    such as a full disk, and `RetryableError` for what may pass.
    """

    root: Path
    """Where the store lies, or, for a remote store, where this machine keeps its copies and works."""
    address: str
    """The address that opens this store in any process."""
    disk: Disk

    def require_writable(self) -> None:
        """Find out before any work whether the store can be written. Raises `FatalError`."""

    def refresh(self) -> None:
        """Bring this machine's view of runs and partition maps up to date."""

    def folder(self, stage: str, key: str) -> Path:
        """Where an artifact is on this machine. Raises `FatalError` for names that could lead elsewhere."""

    def find(self, stage: str, key: str) -> Artifact | None:
        """The committed artifact, or None. A folder without a manifest does not count as one."""

    def find_all(self, stage: str, keys: Iterable[str]) -> dict[str, Artifact]:
        """Key → committed artifact, for those keys that have one."""

    def recover(self, stage: str, key: str) -> Artifact | None:
        """The artifact, if another process has committed it since, or died with a commit that can be finished."""

    def fetch_artifacts(self, folders: Sequence[Path]) -> tuple[Artifact, ...]:
        """The artifacts at these places, with all their files on this machine's disk."""

    def stages(self) -> list[str]:
        """Names of the stages that have artifacts."""

    def artifacts(self, stage: str) -> Iterator[Artifact]:
        """Every committed artifact of a stage, ordered by key."""

    def entries(self, stage: str) -> Iterator[StoredEntry]:
        """What is at each place of a stage, ordered by key. Reads no data."""

    def used(self, stage: str, key: str) -> float:
        """Unix time at which an artifact was made or last found by a run."""

    def manifest_bytes(self, stage: str, key: str) -> bytes:
        """The manifest as it is in the store now, whatever this machine has cached."""

    def measure(self, stage: str, key: str, name: str, digest: str) -> tuple[int, str] | None:
        """Size and sha256 of a data file, read again; None where it is missing. `digest` is what the manifest says."""

    def draft(self) -> AbstractContextManager[Path]:
        """A folder to write an artifact's files in. Whatever `commit` did not take is removed on exit."""

    def claim(self, key: str, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """Work on `key` alone. Before it waits for another holder, calls `waiting` with the name of the holder's
        machine.

        Saves work; correctness never needs it.
        """

    def scratch(self, key: str, resumes_from: str = "") -> AbstractContextManager[Path]:
        """A folder that outlives a crash, for work that resumes from the files that `resumes_from` lists."""

    def drop_scratch(self, key: str) -> None:
        """Remove the scratch folder of a key whose artifact is committed."""

    def commit(self, draft: Path, manifest: Manifest) -> Artifact:
        """Make `draft` the artifact of the manifest's stage and key, whole or not at all."""

    def put(self, path: Path, data: bytes) -> None:
        """Write a record at `path` below `root`: readers see the old bytes or the new ones."""

    def touch(self, stage: str, artifacts: Iterable[Artifact]) -> None:
        """Note that a run found these, so that `rlip store gc` spares them although no run refers to them yet."""

    def discard(self, stage: str, key: str) -> None:
        """Remove an artifact, or the remains of one."""

    def remove_run(self, name: str) -> None:
        """Remove a run's records. Its artifacts stay."""

    def remove(self, folder: Path) -> None:
        """Remove a folder of this machine's artifacts or scratch folders by one rename."""

    def idle_scratch(self) -> Iterator[Path]:
        """Scratch folders in which no live process works."""

    def sweep(self) -> int:
        """Remove drafts that dead processes left behind, and return how many. Scratch folders stay for resuming."""

    def damaged_copies(self) -> Iterator[Path]:
        """Read this machine's copies of remote files. Yields damaged ones, which can be removed."""

    def clean_up(self, before: float) -> None:
        """Remove what dead processes left behind, and notes and copies from before `before` (a Unix time)."""


def locate(store: Store, key: str) -> Artifact | None:
    """The committed artifact of a key whose stage is unknown."""
    return next((found for stage in store.stages() if (found := store.find(stage, key)) is not None), None)


def require_valid_address(stage: str, key: str) -> None:
    """Raise `FatalError` unless these are a stage name and a key. Other names could lead out of the store."""
    if not (STAGE_NAME.fullmatch(stage) and KEY.fullmatch(key)):
        raise FatalError(f"{stage[:40]!r}, {key[:80]!r}: not a stage and a key; the file that names them is damaged")
