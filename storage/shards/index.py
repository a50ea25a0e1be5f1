"""Indexes of WebDataset tars: a Parquet file next to each tar, made by reading it once, and compared with it later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from storage.atomic import write_atomic
from storage.errors import FatalError, first_line, translate_os_errors
from storage.shards.scan import Member, Refused, scan_tar
from storage.tables import SHARD_MEMBERS, read_table, table_bytes

Progress = Callable[[int, int], None]
"""Called with the number of bytes read so far and the total."""
_CHUNK = 2**20
_COLUMNS = ("key", "extension", "offset", "size", "digest", "check")
"""Columns that every row of an index has, after that of its tar."""


@dataclass(frozen=True)
class TarIndex:
    """The index of one tar (schema `SHARD_MEMBERS`), and the entries that it leaves out."""

    table: pa.Table
    refused: tuple[Refused, ...]


ARTIFACT_INDEX = "shards.parquet"
"""The index of all tars of an artifact of stage `shard`, next to them."""


def index_path(tar: Path) -> Path:
    """The place of a tar's index: `train-000.tar` has `train-000.index.parquet`."""
    return tar.with_name(f"{tar.name.removesuffix('.tar')}.index.parquet")


def index_tar(tar: Path, progress: Progress = lambda done, total: None) -> TarIndex:
    """Reads a tar once and makes its index. Raises `FatalError` for a missing file, and for a name that isn't UTF-8."""
    if not tar.is_file():
        raise FatalError(f"{tar}: no such file; name a tar, e.g. shards/train-000.tar")
    try:
        tar.name.encode()
    except UnicodeEncodeError as error:
        raise FatalError(f"{tar}: the tar's name is not UTF-8, so no index can state it; rename the tar") from error
    refused: list[Refused] = []
    # A dict per row would take several hundred bytes more per row.
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    total = os.path.getsize(tar)
    with tar.open("rb") as file:
        for entry in scan_tar(tar):
            if isinstance(entry, Refused):
                refused.append(entry)
                continue
            row = (entry.key, entry.extension, entry.offset, entry.size, *_digests(file.fileno(), entry))
            for name, value in zip(_COLUMNS, row, strict=True):
                columns[name].append(value)
            progress(entry.offset + entry.size, total)
    return TarIndex(_table(tar.name, columns), tuple(refused))


def write_index(tar: Path, table: pa.Table) -> Path:
    """Writes the index next to its tar and returns its path."""
    path = index_path(tar)
    write_atomic(path, table_bytes(table))
    return path


def read_index(tar: Path) -> pa.Table:
    """Reads the index next to a tar. Raises `FatalError` that says how to make one where there is none."""
    path = index_path(tar)
    if path.is_file():
        return read_index_file(path)
    found = artifact_index(tar)
    if found is None:
        raise FatalError(f"{tar}: has no index {path.name}; create it with `rlip shards index {tar}`")
    return found


def artifact_index(tar: Path) -> pa.Table | None:
    """The rows of a tar in the index of its artifact; None for a tar of no artifact. Raises as `read_index_file`."""
    path = tar.with_name(ARTIFACT_INDEX)
    if not path.is_file():
        return None
    found = read_index_file(path).filter(pc.field("shard") == tar.name)
    return found if len(found) else None


def read_index_file(path: Path) -> pa.Table:
    """Reads an index. Raises `FatalError` for a missing or invalid one, `RetryableError` when the disk fails."""
    if not path.is_file():
        raise FatalError(f"{path}: no such file; create the index with `rlip shards index`")
    try:
        with translate_os_errors(f"reading {path}"):
            found = read_table(path, SHARD_MEMBERS)
        found.validate(full=True)
        for name in ("shard", *_COLUMNS):
            if found[name].null_count:
                raise ValueError(f"a row without {name}")
        for name in ("offset", "size"):
            if len(found) and pc.min(found[name]).as_py() < 0:
                raise ValueError(f"a row with a negative {name}")
        return found
    except (pa.ArrowException, ValueError, OSError) as error:
        raise FatalError(
            f"{path}: not a shard index ({first_line(error)}); rebuild it with `rlip shards index`"
        ) from error


@dataclass(frozen=True)
class IndexDifference:
    """How a tar differs from its index."""

    faults: tuple[str, ...]
    """Each begins with the name of the member, or of the tar where it is damaged."""
    left_out: tuple[Refused, ...]
    """Entries that indexes never list, which is not a fault."""


def compare(tar: Path, index: pa.Table, progress: Progress = lambda done, total: None) -> IndexDifference:
    """Compares a tar with its index. Reads the tar once. Raises `FatalError` as `index_tar` does."""
    found = index_tar(tar, progress)
    faults = [f"{entry.name or tar.name}: {entry.reason}" for entry in found.refused if entry.damaged]
    stated, actual = (_by_name(table) for table in (index, found.table))
    if repeated := len(index) - len(stated):
        faults.append(f"{tar.name}: {repeated:,} rows of the index repeat a member")
    for name in sorted(stated.keys() | actual.keys()):
        if name not in actual:
            faults.append(f"{name}: in the index, but not in the tar")
        elif name not in stated:
            faults.append(f"{name}: in the tar, but not in the index")
        elif stated[name] != actual[name]:
            different = "different bytes" if stated[name][2] != actual[name][2] else "a different place"
            faults.append(f"{name}: has {different} than the index says")
    return IndexDifference(tuple(faults), tuple(entry for entry in found.refused if not entry.damaged))


def _by_name(table: pa.Table) -> dict[str, tuple[int, int, str]]:
    columns = (table[name].to_pylist() for name in ("key", "extension", "offset", "size", "digest"))
    return {f"{key}.{extension}": place for key, extension, *place in zip(*columns, strict=True)}  # type: ignore[misc]


def _table(tar: str, columns: dict[str, list[Any]]) -> pa.Table:
    """The index of a tar, in which the columns about images are null."""
    rows = len(columns["key"])
    known = columns | {"shard": [tar] * rows}
    made = [pa.array(known[f.name], f.type) if f.name in known else pa.nulls(rows, f.type) for f in SHARD_MEMBERS]
    return pa.Table.from_arrays(made, schema=SHARD_MEMBERS)


def _digests(descriptor: int, member: Member) -> tuple[str, str]:
    """Returns the sha256 and the 128-bit XXH3 of a member's bytes."""
    digest, check = hashlib.sha256(), xxhash.xxh3_128()
    for start in range(0, member.size, _CHUNK):
        data = os.pread(descriptor, min(_CHUNK, member.size - start), member.offset + start)
        digest.update(data)
        check.update(data)
    return digest.hexdigest(), check.hexdigest()
