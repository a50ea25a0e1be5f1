"""A cache of parsed captions for all partitions and runs: each version of the parser parses each distinct text once."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from xxhash import xxh3_128_digest

from pipeline.runtime.logs import log
from storage.atomic import write_atomic
from storage.disk import CACHE
from storage.errors import FatalError, RetryableError
from tagger.triplet import Triplet

T = TypeVar("T")

_WAIT = 120.0
"""Seconds to wait for another writer."""
_CHECK_BYTES = 16
_NAMES = [field.name for field in fields(Triplet)]
_ROW: Any = tuple[tuple(field.type for field in fields(Triplet))]  # type: ignore[misc]
_ROWS: TypeAdapter[list[tuple[Any, ...]]] = TypeAdapter(list[_ROW])
_MAKE = (
    "CREATE TABLE IF NOT EXISTS parsed (parser BLOB, text BLOB, triplets BLOB, PRIMARY KEY (parser, text)) WITHOUT "
    "ROWID"
)
_BESIDE = ("-journal", "-wal", "-shm")
"""Ends of names of files that SQLite writes next to its own. A new file would take up the journal of the old one."""
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_OF_THE_MACHINE = (
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_AUTH,
)  # fmt: skip
"""Errors that a new file would run into as well."""
_SELECT = "SELECT parser, text, triplets FROM parsed"


class ParseCache:
    """One SQLite file for any number of processes. What a writer has committed stays even if it is killed.

    A parse does not depend on what else is parsed with it, so rows are the same with and without the cache. Each has a
    checksum: a changed parse counts as not cached and is replaced. An unreadable file is logged and replaced.
    """

    def __init__(self, path: Path, version: str) -> None:
        """`version` identifies all that decides a parse, except the text. Raises `FatalError` if `path` is unusable."""
        self._path = path
        # Rows hold values without names, so those of a version with other fields must not be found.
        self._parser = hashlib.sha256("\0".join([version, *_NAMES]).encode()).digest()
        self._use(lambda connection: None)

    def find(self, texts: Sequence[str]) -> dict[str, list[Triplet]]:
        """Look up texts. Returns the cached parses."""

        def look_up(connection: sqlite3.Connection) -> dict[str, list[Triplet]]:
            found: dict[str, list[Triplet]] = {}
            for text in texts:
                own = (self._parser, _digest(text))
                for row in connection.execute(f"{_SELECT} WHERE parser = ? AND text = ?", own):
                    if (parse := _read(*row)) is not None:
                        found[text] = parse
            return found

        return self._use(look_up)

    def keep(self, parsed: Mapping[str, Sequence[Triplet]]) -> None:
        """Add parses, all or none; they replace what is cached of the same texts."""
        digests = {text: _digest(text) for text in parsed}
        rows = [(self._parser, digests[text], _packed(self._parser, digests[text], parsed[text])) for text in parsed]
        self._use(lambda connection: connection.executemany("INSERT OR REPLACE INTO parsed VALUES (?, ?, ?)", rows))

    def _use(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run an action in a transaction and return its result. An unreadable file is replaced, and the action rerun.

        Each transaction opens its own connection, so that a forked process inherits none.
        """
        is_new = False
        while True:
            inode = self._inode()
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(self._path, timeout=_WAIT)) as connection, connection:
                    connection.execute(_MAKE)
                    return action(connection)
            except OSError as error:
                raise FatalError(f"{self._path}: {error.strerror}; free space or set parse.cache elsewhere") from error
            except sqlite3.Error as error:
                if _code(error) in _LOCKED:
                    raise RetryableError(
                        f"{self._path}: another process has locked it for {_WAIT:g} seconds; run again when it is done"
                    ) from error
                if is_new or not _is_damage(error, self._path):
                    raise FatalError(f"{self._path}: {error}; free space or set parse.cache elsewhere") from error
                self._replace(str(error), inode)
                is_new = True

    def _replace(self, reason: str, inode: int | None) -> None:
        """Replace an unreadable file by an empty one, unless another process has done so."""
        if self._inode() == inode:
            log.warning(
                "the cache of parses was damaged and is rebuilt",
                extra={"fields": {"file": str(self._path), "reason": reason}},
            )
            for suffix in _BESIDE:
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            # To SQLite, an empty file is an empty database.
            write_atomic(self._path, b"", CACHE)

    def _inode(self) -> int | None:
        """Distinguishes a file from one that took its place."""
        return self._path.stat().st_ino if self._path.exists() else None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def cache_fault(path: Path) -> str:
    """What is wrong with a cache, which is read in full; "" if nothing is. Raises `FatalError` if it can't be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                return str(found)
            if any(_read(*row) is None for row in connection.execute(_SELECT)):
                return "the parse of a caption does not match its checksum"
    except sqlite3.Error as error:
        if not _is_damage(error, path):
            raise FatalError(f"{path}: {error}; let no other process write it, then try again") from error
        # A cache of earlier versions, to which the table is added on use.
        return "" if "no such table" in str(error) else str(error)
    return ""


def _is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether the file is to blame, rather than the machine or another process."""
    if _code(error) == sqlite3.SQLITE_READONLY:
        # A file of a format that SQLite doesn't know is read-only to it, too.
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return _code(error) not in (*_LOCKED, *_OF_THE_MACHINE)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary code; 0 for an error of Python's module, such as for a text that isn't UTF-8."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _packed(parser: bytes, text: bytes, triplets: Sequence[Triplet]) -> bytes:
    packed = zlib.compress(json.dumps([astuple(t) for t in triplets], ensure_ascii=False).encode(), 1)
    return xxh3_128_digest(parser + text + packed) + packed


def _read(parser: Any, text: Any, checked: Any) -> list[Triplet] | None:
    """The parse that `_packed` was given; None for anything else, whatever a file may hold."""
    # Values of other types than bytes have no length or sum.
    with suppress(TypeError, ValueError, zlib.error):
        packed = checked[_CHECK_BYTES:]
        if xxh3_128_digest(parser + text + packed) == checked[:_CHECK_BYTES]:
            return [Triplet(*row) for row in _ROWS.validate_json(zlib.decompress(packed), strict=True)]
    return None
