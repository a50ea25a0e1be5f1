"""Unpacks downloaded archives, never outside the target folder. What an interruption leaves counts as missing."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pipeline.data.catalogue import unpacking
from pipeline.data.datasets.annotations import is_inside
from pipeline.data.download import Report, require_space
from storage.atomic import atomic_file
from storage.errors import FatalError, translate_os_errors
from storage.shards.scan import ENDS_EARLY, DamagedTar, entries_in, fault_of

_CHUNK = 1 << 20


def unpack(archive: Path, folder: Path, report: Report = lambda done, total: None) -> None:
    """Unpack a .zip or .tar.gz into `folder` and remove the archive.

    Files appear in `folder` only once all are unpacked; those that exist there under other names stay. Raises
    `FatalError` for a member that would end up outside the folder, a damaged archive (which is removed) and a full disk.
    """
    aside = unpacking(archive)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with _explained(archive):
            aside.mkdir(parents=True)
            (_unpack_zip if archive.suffix == ".zip" else _unpack_tar)(archive, aside, report)
            # One call for all files: images come by the hundred thousand, and a sync of each would take hours.
            os.sync()
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    with _explained(archive):  # what is moved only in part counts as missing, as long as `aside` exists
        # A rename of the whole folder can't merge it into one that exists, so each file is moved.
        shutil.copytree(aside, folder, copy_function=os.replace, dirs_exist_ok=True)
        shutil.rmtree(aside)
    archive.unlink()


def gunzip(archive: Path, path: Path, report: Report = lambda done, total: None) -> None:
    """Decompress a .gz file to `path`, which appears only when it is whole, and remove the archive. Raises as `unpack`
    does."""
    total = archive.stat().st_size
    with _explained(archive):
        require_space(archive.parent, total, f"unpacking {archive}")
        with (
            archive.open("rb") as packed,
            gzip.open(packed) as source,
            atomic_file(path) as aside,
            aside.open("wb") as target,
        ):
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                report(packed.tell(), total)
    archive.unlink()


def _unpack_zip(archive: Path, aside: Path, report: Report) -> None:
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            _require_plain(archive, member.filename, "is a link" if stat.S_ISLNK(member.external_attr >> 16) else "")
        total = sum(member.file_size for member in members)
        require_space(aside, total, f"unpacking {archive}")
        done = 0
        for member in members:
            if not member.is_dir():
                with packed.open(member) as source:
                    _write(source, aside / member.filename, member.file_size)
                done += member.file_size
                report(done, total)


def _unpack_tar(archive: Path, aside: Path, report: Report) -> None:
    total = archive.stat().st_size
    require_space(aside, total, f"unpacking {archive}")
    with archive.open("rb") as packed, gzip.open(packed) as source:
        for member in entries_in(cast(IO[bytes], source)):
            _require_plain(archive, member.name, "" if member.isdir() else fault_of(member))
            if not member.isdir():
                _write(source, aside / member.name, member.size)
                report(packed.tell(), total)


def _require_plain(archive: Path, name: str, fault: str) -> None:
    if not is_inside(name) or "\\" in name:
        fault = "would lie outside the folder"
    if fault:
        raise FatalError(
            f"{archive}: member {name!r} {fault}, so nothing was unpacked; this is not the published archive: remove "
            "it, and download it from its official page (`rlip data list`)"
        )


def _write(source: IO[bytes] | gzip.GzipFile, path: Path, size: int) -> None:
    """Writes the next `size` bytes of `source`. Raises EOFError where it has fewer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        while size:
            chunk = source.read(min(size, _CHUNK))
            if not chunk:
                raise EOFError(f"{path.name} {ENDS_EARLY}")
            target.write(chunk)
            size -= len(chunk)


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Turn errors of reading an archive, which is removed if it is damaged, into `FatalError`, and those of the disk."""
    try:
        with translate_os_errors(f"unpacking {archive}"):
            yield
    except (zipfile.BadZipFile, DamagedTar, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        archive.unlink(missing_ok=True)
        raise FatalError(f"{archive}: was damaged ({error}) and has been removed; run again to download it") from error
