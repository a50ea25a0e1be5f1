"""What planning found out about partitions, remembered while their image files stay as they were."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.data.images.refs import ImagePlace, state_of
from storage.atomic import write_atomic

_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was read may change again within the same tick of its time stamp."""


class PartitionDigests:
    """Digests by partition number, each held by the size, times and inode of every image file it was made of.

    A cache, kept in an index's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "digests.json"
        self._known: dict[str, list[str]] = {}
        with suppress(OSError, ValueError):
            self._known = json.loads(self._path.read_bytes())
        self._stamp: str | None = None
        self._changed = False

    def find(self, number: int, paths: Iterable[ImagePlace], rest: Any) -> str | None:
        """The digest of a partition when its files, and what else decides it (`rest`), are as they were."""
        began = time.time_ns()
        stamp, newest = _stamp(paths, rest)
        self._stamp = stamp if newest < began - _SETTLED_NS else None
        found = self._known.get(str(number))
        return found[1] if found is not None and found[0] == self._stamp else None

    def keep(self, number: int, digest: str) -> None:
        """Remember the digest of the partition that `find` was asked for last."""
        if self._stamp is not None:
            self._known[str(number)] = [self._stamp, digest]
            self._changed = True

    def save(self) -> None:
        """Write what is new; where nothing may be written, the next plan reads the files again."""
        if self._changed:
            with suppress(OSError):
                write_atomic(self._path, json.dumps(self._known).encode())


def _stamp(paths: Iterable[ImagePlace], rest: Any) -> tuple[str, int]:
    """A digest of the state of files, and the newest change among them in ns since 1970."""
    found = hashlib.sha256(json.dumps(rest).encode())
    newest = 0
    for path in paths:
        try:
            state = state_of(path)
        except OSError as error:
            found.update(f"{error.errno}\n".encode())
            continue
        newest = max(newest, state.newest_ns)
        found.update(f"{state.text}\n".encode())
    return found.hexdigest(), newest
