"""A cache of parsed captions for all partitions and runs: each version of the parser parses each distinct text once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from xxhash import xxh3_128_digest

from storage.errors import FatalError, RetryableError
from tagger.triplet import Triplet

_TEXTS_PER_QUERY = 500
"""Limited because older builds of SQLite bind at most a thousand values per query."""
_WAIT = 120.0
"""Seconds to wait for another writer."""
_MOST = 2**24
"""Bytes that a parse may have. Captions have a hundredth of it."""
_CHECK_BYTES = 16
_NAMES = [field.name for field in fields(Triplet)]
_ROW: Any = tuple[tuple(field.type for field in fields(Triplet))]  # type: ignore[misc]
_ROWS: TypeAdapter[list[tuple[Any, ...]]] = TypeAdapter(list[_ROW])
_MAKE = "CREATE TABLE IF NOT EXISTS parsed (parser BLOB, text BLOB, triplets BLOB, PRIMARY KEY (parser, text)) WITHOUT ROWID"
_DROP_EARLIER = "DROP TABLE IF EXISTS parses"
"""The table of earlier versions, which has no checksums."""
_SELECT = f"SELECT parser, text, iif(length(triplets) <= {_MOST}, triplets, NULL) FROM parsed"


class ParseCache:
    """One SQLite file for any number of processes. What a writer has committed stays even if it is killed.

    A parse does not depend on what else is parsed with it, so rows are the same with and without the cache. Each is kept
    with a checksum: one that has changed counts as not cached, and is replaced.
    """

    def __init__(self, path: Path, version: str) -> None:
        """`version` identifies everything but the text that decides a parse. Raises `FatalError` when `path` cannot be used."""
        self._path = path
        self._parser = hashlib.sha256("\0".join([version, *_NAMES]).encode()).digest()
        with self._open() as connection:
            connection.execute(_DROP_EARLIER)
            connection.execute(_MAKE)

    def find(self, texts: Sequence[str]) -> dict[str, list[Triplet]]:
        """Look up texts. Returns the parses of those that are cached."""
        by_digest = {_digest(text): text for text in texts}
        digests = list(by_digest)
        found: dict[str, list[Triplet]] = {}
        with self._open() as connection:
            for start in range(0, len(digests), _TEXTS_PER_QUERY):
                asked = digests[start : start + _TEXTS_PER_QUERY]
                marks = ",".join("?" * len(asked))
                for row in connection.execute(
                    f"{_SELECT} WHERE parser = ? AND text IN ({marks})", (self._parser, *asked)
                ):
                    with suppress(_Damaged):
                        found[by_digest[row[1]]] = _read(*row)
        return found

    def keep(self, parsed: Mapping[str, Sequence[Triplet]]) -> None:
        """Add parses, all or none; they replace what is cached of the same texts."""
        digests = {text: _digest(text) for text in parsed}
        rows = [(self._parser, digests[text], _packed(self._parser, digests[text], parsed[text])) for text in parsed]
        with self._open() as connection:
            connection.executemany("INSERT OR REPLACE INTO parsed VALUES (?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection with one transaction. Each use opens its own, so that a forked process inherits none."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_WAIT)) as connection, connection:
                yield connection
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RetryableError(
                    f"{self._path}: another process has locked it for {_WAIT:g} seconds; run again when it is done"
                ) from error
            raise FatalError(f"{self._path}: {error}; set parse.cache to a writable file") from error
        except sqlite3.DatabaseError as error:
            raise FatalError(
                f"{self._path}: damaged ({error}); remove it (`rlip verify --repair` does), and captions are parsed again"
            ) from error
        except OSError as error:
            raise FatalError(f"{self._path}: {error.strerror}; set parse.cache to a writable file") from error


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def cache_fault(path: Path) -> str:
    """What is wrong with a cache, all of which is read; "" where nothing is. Raises `FatalError` for one that can't be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                return str(found)
            for row in connection.execute(_SELECT):
                _read(*row)
    except _Damaged:
        return "the parse of a caption does not match its checksum"
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise FatalError(f"{path}: {error}; let no other process write it, then try again") from error
    except sqlite3.DatabaseError as error:
        return str(error)
    return ""


class _Damaged(Exception):
    """A parse that does not match its checksum."""


def _packed(parser: bytes, text: bytes, triplets: Sequence[Triplet]) -> bytes:
    packed = zlib.compress(json.dumps([astuple(t) for t in triplets], ensure_ascii=False).encode(), 1)
    return xxh3_128_digest(parser + text + packed) + packed


def _read(parser: Any, text: Any, checked: Any) -> list[Triplet]:
    """The parse that `_packed` was given. Raises `_Damaged` for anything else, whatever a file may hold."""
    if not all(isinstance(value, bytes) for value in (parser, text, checked)):
        raise _Damaged
    packed = checked[_CHECK_BYTES:]
    if xxh3_128_digest(parser + text + packed) != checked[:_CHECK_BYTES]:
        raise _Damaged
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, _MOST)
        if not unpacker.eof:
            raise _Damaged
        return [Triplet(*row) for row in _ROWS.validate_json(data, strict=True)]
    except (zlib.error, ValueError) as error:
        raise _Damaged from error
