"""The operations by which the store changes a disk. At each call below, the process can die or the disk fail."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from storage.errors import FatalError


class Disk:
    """A local disk. Tests replace its system calls with ones that stop, fail or forget what was not synced."""

    def open(self, path: Path, flags: int) -> int:
        """System call: a descriptor of a file or folder. Makes a file with O_CREAT, which the umask restricts."""
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write_some(self, descriptor: int, data: bytes) -> int:
        """System call: write some of `data`; returns how many bytes. A power cut may take them before `fsync`."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """System call: force the bytes of a file, or the entries of a folder, to the disk."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """System call: move a file or folder. Replaces a file at `target`; raises OSError for a folder with entries."""
        source.rename(target)

    def mkdir(self, folder: Path) -> None:
        """System call: make one folder, unless it exists."""
        folder.mkdir(exist_ok=True)

    def unlink(self, path: Path) -> None:
        """System call: remove a file."""
        path.unlink()

    def rmtree(self, folder: Path) -> None:
        """System calls: remove a folder and everything in it, as far as it can be removed."""
        shutil.rmtree(folder, ignore_errors=True)

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file. Its bytes may not survive a power cut before `sync_file`."""
        descriptor = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.append(descriptor, data)
        finally:
            os.close(descriptor)

    def append(self, descriptor: int, data: bytes) -> None:
        """Write all of `data` to a file that was opened to append. Only `sync_file` makes it durable."""
        written = 0
        while written < len(data):
            written += self.write_some(descriptor, data[written:])

    def sync_file(self, path: Path) -> None:
        """Force a file's bytes to the disk."""
        self._sync(path, os.O_RDONLY)

    def sync_folder(self, path: Path) -> None:
        """Force a folder's entries to the disk, so that a rename in it survives a power cut."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def sync_all(self, files: Sequence[Path], folder: Path) -> None:
        """Force files and their folder to the disk together, so that the disk writes once and not once per file."""
        under_way = [_threads().submit(self.sync_file, path) for path in files]
        try:
            self.sync_folder(folder)
        finally:
            # No error may return while a thread still syncs files that the caller then removes.
            wait(under_way)
        for each in under_way:
            each.result()

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists and can be removed."""
        with suppress(OSError):
            self.unlink(path)

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder and everything in it, as far as it can be removed."""
        with suppress(OSError):
            self.rmtree(folder)

    def make_durable(self, folder: Path) -> None:
        """Make a folder and its missing parents, and sync each into its parent, so that a power cut spares them."""
        for missing in reversed([path for path in (folder, *folder.parents) if not path.is_dir()]):
            self.mkdir(missing)
            self.sync_folder(missing.parent)

    def _sync(self, path: Path, flags: int) -> None:
        descriptor = self.open(path, flags)
        try:
            self.fsync(descriptor)
        finally:
            os.close(descriptor)


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads that wait for the disk. They start once per process, since starting them costs as much as a sync."""
    return ThreadPoolExecutor(4, "sync")


class CacheDisk(Disk):
    """A local disk for caches. Nothing is synced, since what a power cut takes can be made again."""

    def sync_file(self, path: Path) -> None:
        """Leaves the bytes to the kernel."""

    def sync_folder(self, path: Path) -> None:
        """Leaves the entries to the kernel."""


def lock_file(path: Path) -> BinaryIO:
    """Open a file to lock it, creating it if necessary. Its bytes stay as they are.

    Raises `FatalError` for a link, which could lead to someone else's file, and OSError for what can't be opened.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FatalError(f"{path}: is a link, but only files can be locked; remove it") from error
        raise


LOCAL = Disk()
"""The disk of this machine."""
CACHE = CacheDisk()
