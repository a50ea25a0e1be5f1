"""Copies on this machine's disk are read once in a process, and again when they change."""

from __future__ import annotations

import os
from pathlib import Path

from storage.digests import digest_bytes
from storage.manifest import FileEntry
from storage.remote_store import VerifiedFiles, read_checked, write_checked


class Counted(FileEntry):
    """Counts how often the file was read."""

    def matches(self, path: Path) -> bool:
        reads.append(path)
        return super().matches(path)


reads: list[Path] = []


def _entry(data: bytes) -> FileEntry:
    return Counted(digest=digest_bytes(data), size=len(data))


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    files, one, other = VerifiedFiles(), tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"same")
    other.write_bytes(b"same")
    reads.clear()
    assert all(files.holds(path, _entry(b"same")) for path in (one, other, one, other))
    assert reads == [one, other]
    one.write_bytes(b"wrong")
    os.utime(one, (5, 5))
    assert not files.holds(one, _entry(b"same")) and not files.holds(one, _entry(b"same"))
    assert reads == [one, other, one, one]
    assert files.holds(one, _entry(b"wrong")) and files.holds(one, _entry(b"wrong"))
    assert reads[4:] == [one]
    one.unlink()
    assert not files.holds(one, _entry(b"wrong"))


def test_other_bytes_of_the_same_size_and_time_are_noticed(tmp_path: Path) -> None:
    files, path = VerifiedFiles(), tmp_path / "one"
    path.write_bytes(b"same")
    assert files.holds(path, _entry(b"same"))
    was = path.stat()
    path.write_bytes(b"evil")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    while path.stat().st_ctime_ns == was.st_ctime_ns:  # the file system's clock ticks every few milliseconds
        path.chmod(0o600)
    assert not files.holds(path, _entry(b"same"))


def test_one_file_may_be_asked_for_with_other_bytes(tmp_path: Path) -> None:
    files, path = VerifiedFiles(), tmp_path / "one"
    path.write_bytes(b"1")
    assert files.holds(path, _entry(b"1")) and not files.holds(path, _entry(b"2")) and files.holds(path, _entry(b"1"))


def test_cached_bytes_are_given_out_only_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "cached"
    assert read_checked(path) is None
    for data in (b"", b"bytes"):
        write_checked(path, data)
        assert read_checked(path) == data
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_checked(path) is None
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read_checked(path) is None
