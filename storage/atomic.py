"""Writing that survives a crash: a file appears whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path

from storage.disk import LOCAL, Disk


def write_atomic(path: Path, data: bytes, disk: Disk = LOCAL) -> None:
    """Put `data` at `path`: readers see the old bytes or the new ones, never a mixture."""
    disk.make_durable(path.parent)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        disk.write(aside, data)
        put_in_place(aside, path, disk)
    finally:
        disk.remove(aside)


def put_in_place(aside: Path, path: Path, disk: Disk = LOCAL) -> None:
    """Make a finished file in the same folder the one at `path`: its bytes are on the disk before its name is."""
    disk.sync_file(aside)
    disk.rename(aside, path)
    disk.sync_folder(path.parent)
