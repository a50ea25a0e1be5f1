"""The operations by which the store changes a disk. At each, the process can die or the disk can fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path


class Disk:
    """A local disk. Tests replace it by one that stops or fails at a chosen operation."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file. Its bytes may not survive a power cut before `sync_file`."""
        path.write_bytes(data)

    def append(self, descriptor: int, data: bytes) -> None:
        """Write all of `data` to a file that was opened to append. It may not survive a power cut before `sync_file`."""
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])

    def sync_file(self, path: Path) -> None:
        """Force a file's bytes to the disk."""
        _sync(path, os.O_RDONLY)

    def sync_folder(self, path: Path) -> None:
        """Force a folder's entries to the disk, so that a rename in it survives a power cut."""
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def sync_all(self, files: Sequence[Path], folder: Path) -> None:
        """Force files and their folder to the disk together, so that the disk writes once and not once per file."""
        under_way = [_threads().submit(self.sync_file, path) for path in files]
        try:
            self.sync_folder(folder)
        finally:
            wait(under_way)
        for each in under_way:
            each.result()

    def rename(self, source: Path, target: Path) -> None:
        """Move a file or folder atomically. Replaces a file at `target`; raises OSError for a folder with entries there."""
        source.rename(target)

    def make(self, folder: Path) -> None:
        """Make one folder, unless it exists."""
        folder.mkdir(exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists and can be removed."""
        with suppress(OSError):
            path.unlink()

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder and everything in it, as far as it can be removed."""
        shutil.rmtree(folder, ignore_errors=True)

    def make_durable(self, folder: Path) -> None:
        """Make a folder and its missing parents such that they survive a power cut."""
        for missing in reversed([path for path in (folder, *folder.parents) if not path.is_dir()]):
            self.make(missing)
            self.sync_folder(missing.parent)


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads that wait for the disk. Made once per process, since making them costs as much as a sync."""
    return ThreadPoolExecutor(4, "sync")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CacheDisk(Disk):
    """A local disk for caches. Nothing is synced, since what a power cut takes can be made again."""

    def sync_file(self, path: Path) -> None:
        """Does nothing."""

    def sync_folder(self, path: Path) -> None:
        """Does nothing."""


LOCAL = Disk()
"""The disk of this machine."""
CACHE = CacheDisk()
