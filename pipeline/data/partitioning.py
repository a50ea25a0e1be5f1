"""Partitioning: a data set is cut once into stored partitions, and new images append partitions, so nothing old moves."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.data.images.refs import ImagePlace, state_of
from storage.atomic import write_atomic
from storage.errors import Terminal


def extend_cut(cut: Sequence[Sequence[int]], image_ids: Sequence[int], size: int) -> list[list[int]]:
    """Append the ids that `cut` lacks as new partitions of `size` images; old partitions keep their ids and places."""
    known = {image_id for partition in cut for image_id in partition}
    fresh = [image_id for image_id in image_ids if image_id not in known]
    return [list(p) for p in cut] + [fresh[i : i + size] for i in range(0, len(fresh), size)]


def load_cut(path: Path) -> list[list[int]]:
    """The stored cut, or an empty one. Raises `Terminal` on a damaged one."""
    try:
        found: list[list[int]] = json.loads(path.read_bytes())["partitions"]
        if not all(isinstance(image_id, int) for partition in found for image_id in partition):
            raise TypeError("an image id is no number")
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise Terminal(
            f"{path}: damaged ({error}); remove it and run again: images are cut anew in their order, and what moves to "
            "another partition is computed again"
        ) from error
    return found


def cut_bytes(cut: Sequence[Sequence[int]]) -> bytes:
    """A cut as it is stored."""
    return json.dumps({"partitions": cut}).encode()


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
