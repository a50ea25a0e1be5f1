"""A cache of parsed captions for all partitions and runs: each version of the parser parses each distinct text once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from storage.errors import FatalError, RetryableError
from tagger.triplet import Triplet

_TEXTS_PER_QUERY = 500
"""Limited because older builds of SQLite bind at most a thousand values per query."""
_WAIT = 120.0
"""Seconds to wait for another writer."""
_NAMES = [field.name for field in fields(Triplet)]
_MAKE = "CREATE TABLE IF NOT EXISTS parses (parser BLOB, text BLOB, triplets BLOB, PRIMARY KEY (parser, text)) WITHOUT ROWID"


class ParseCache:
    """One SQLite file for any number of processes. What a writer has committed stays even if it is killed.

    A parse does not depend on what else is parsed with it, so rows are the same with and without the cache.
    """

    def __init__(self, path: Path, version: str) -> None:
        """`version` identifies everything but the text that decides a parse. Raises `FatalError` when `path` cannot be used."""
        self._path = path
        self._parser = hashlib.sha256("\0".join([version, *_NAMES]).encode()).digest()
        with self._open() as connection:
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
                rows = connection.execute(
                    f"SELECT text, triplets FROM parses WHERE parser = ? AND text IN ({marks})", (self._parser, *asked)
                )
                found.update((by_digest[digest], _read(packed)) for digest, packed in rows)
        return found

    def keep(self, parsed: Mapping[str, Sequence[Triplet]]) -> None:
        """Add parses, all or none; parses that are already cached stay."""
        rows = [(self._parser, _digest(text), _packed(triplets)) for text, triplets in parsed.items()]
        with self._open() as connection:
            connection.executemany("INSERT OR IGNORE INTO parses VALUES (?, ?, ?)", rows)

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
        except (sqlite3.DatabaseError, zlib.error, ValueError, TypeError) as error:
            raise FatalError(f"{self._path}: damaged ({error}); remove it, and captions are parsed again") from error
        except OSError as error:
            raise FatalError(f"{self._path}: {error.strerror}; set parse.cache to a writable file") from error


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _packed(triplets: Sequence[Triplet]) -> bytes:
    return zlib.compress(json.dumps([astuple(t) for t in triplets], ensure_ascii=False).encode(), 1)


def _read(packed: bytes) -> list[Triplet]:
    return [_triplet(row) for row in json.loads(zlib.decompress(packed))]


def _triplet(row: list[Any]) -> Triplet:
    given = zip(_NAMES, row, strict=True)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given}
    return Triplet(**values)
