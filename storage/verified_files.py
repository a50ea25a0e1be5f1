"""Copies on this machine's disk are verified before they are used: once in a process, and again if they change."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from xxhash import xxh3_128_digest

from storage.atomic import write_atomic
from storage.disk import CACHE
from storage.manifest import FileEntry

_CHECK_BYTES = 16


class VerifiedFiles:
    """Remembers which files had the bytes that their manifests state, by size, times and inode."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], tuple[int, ...]] = {}

    def holds(self, path: Path, entry: FileEntry) -> bool:
        """Whether a file is there with the bytes of `entry`, read unless this process has done so since it last changed."""
        try:
            state = _state(path)
            if self._known.get((path, entry.digest)) != state:
                if not entry.matches(path):
                    return False
                self._known[path, entry.digest] = state
        except FileNotFoundError:
            return False
        return True


def write_checked(path: Path, data: bytes) -> None:
    """Cache bytes together with their checksum."""
    write_atomic(path, xxh3_128_digest(data) + data, CACHE)


def read_checked(path: Path) -> bytes | None:
    """The bytes that were cached; None where there are none, or where they do not match their checksum."""
    with suppress(FileNotFoundError):
        data = path.read_bytes()
        if data[:_CHECK_BYTES] == xxh3_128_digest(data[_CHECK_BYTES:]):
            return data[_CHECK_BYTES:]
    return None


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
