"""Writes that survive a crash: a file or folder appears whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.disk import LOCAL, Disk


def write_atomic(path: Path, data: bytes, disk: Disk = LOCAL) -> None:
    """Write `data` to `path`: readers see the old bytes or the new ones, never a mixture."""
    with atomic_file(path, disk) as aside:
        disk.write(aside, data)


@contextmanager
def atomic_file(path: Path, disk: Disk = LOCAL) -> Iterator[Path]:
    """A temporary path to write a file to, which becomes `path` when the context ends without an error."""
    disk.make_durable(path.parent)
    aside = _beside(path)
    try:
        yield aside
        put_in_place(aside, path, disk)
    finally:
        disk.remove(aside)


@contextmanager
def atomic_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the context ends without an error.

    A folder that exists there by then is replaced if `replace` is set; otherwise it stays and the new one is dropped.
    """
    aside, old = _beside(path), _beside(path)
    try:
        aside.mkdir(parents=True)
        yield aside
        # A folder can't be renamed over one that has entries.
        if replace and path.exists():
            path.rename(old)
        try:
            aside.rename(path)
        except OSError:
            # Otherwise another process was faster.
            if replace or not path.is_dir():
                raise
    finally:
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)


def put_in_place(aside: Path, path: Path, disk: Disk = LOCAL) -> None:
    """Rename a finished file to `path` in the same folder. Its bytes reach the disk before its name does."""
    disk.sync_file(aside)
    disk.rename(aside, path)
    disk.sync_folder(path.parent)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")
