"""This machine's copies of the small files of a remote store: runs and cuts."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel
from xxhash import xxh3_128_hexdigest

from storage.atomic import write_atomic
from storage.disk import Disk
from storage.errors import FatalError
from storage.json_files import read_json, sealed_json
from storage.remote import Remote

_FOLDERS = ("runs", "cuts")


class _Mirrored(BaseModel):
    """The files that were copied: the tokens that they had there, and checksums of the copies."""

    files: dict[str, tuple[str, str]]


class Mirror:
    """Copies in `root` of the files at a URL. A copy that changed here is made anew, too."""

    def __init__(self, files: Remote, root: Path, disk: Disk) -> None:
        self._files = files
        self._root = root
        self._disk = disk
        self._note = root / "mirrored.json"

    def refresh(self) -> None:
        """Update the copies. Lists each folder once, then reads the files that changed there or here."""
        known: dict[str, tuple[str, str]] = {}
        with suppress(FileNotFoundError, FatalError):
            known = read_json(self._note, _Mirrored).files
        began = time.time()
        there = {f"{top}/{path}": entry.token for top in _FOLDERS for path, entry in self._files.listing(top).items()}
        now = {path: (token, _check_of(self._inside(path))) for path, token in there.items()}
        changed = [path for path, state in now.items() if known.get(path) != state]
        for path, data in self._files.read_many(changed).items():
            write_atomic(self._inside(path), data, self._disk)
            now[path] = (there[path], xxh3_128_hexdigest(data))
        for top in _FOLDERS:
            for mine in (self._root / top).rglob("*.json"):
                is_older = mine.stat().st_mtime < began  # a run writes its records there first, then here
                if is_older and mine.relative_to(self._root).as_posix() not in there:
                    mine.unlink(missing_ok=True)
        write_atomic(self._note, sealed_json({"files": now}), self._disk)

    def _inside(self, path: str) -> Path:
        """Where a file is copied to. Raises `FatalError` for a name that leads out of the store."""
        if any(part in (".", "..") for part in path.split("/")):
            raise FatalError(f"{self._files.url}: a record is named {path!r}, which leads out of the store; remove it")
        return self._root / path


def _check_of(path: Path) -> str:
    return xxh3_128_hexdigest(path.read_bytes()) if path.is_file() else ""
