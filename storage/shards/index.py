"""Indexes of WebDataset tars: one Parquet file beside each tar, made by reading it once, and compared with it later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from storage.atomic import write_atomic
from storage.errors import FatalError
from storage.shards.scan import Member, Refused, scan_tar
from storage.tables import SHARD_MEMBERS, read_table, table_bytes

Progress = Callable[[int, int], None]
"""Called with the bytes that were read, and the bytes there are."""
_CHUNK = 2**20


@dataclass(frozen=True)
class TarIndex:
    """The index of one tar (schema `SHARD_MEMBERS`), and the entries that it leaves out."""

    table: pa.Table
    refused: tuple[Refused, ...]


def index_path(tar: Path) -> Path:
    """The place of a tar's index: `train-000.tar` has `train-000.index.parquet`."""
    return tar.with_name(f"{tar.name.removesuffix('.tar')}.index.parquet")


def index_tar(tar: Path, progress: Progress = lambda done, total: None) -> TarIndex:
    """Reads a tar once and makes its index. Raises `FatalError` when there is no such file."""
    if not tar.is_file():
        raise FatalError(f"{tar}: no such file; name a tar, e.g. shards/train-000.tar")
    refused: list[Refused] = []
    rows: list[dict[str, object]] = []
    total = os.path.getsize(tar)
    with tar.open("rb") as file:
        for entry in scan_tar(tar):
            if isinstance(entry, Refused):
                refused.append(entry)
                continue
            rows.append(_row(tar.name, entry, *_digests(file.fileno(), entry)))
            progress(entry.offset + entry.size, total)
    return TarIndex(pa.Table.from_pylist(rows, schema=SHARD_MEMBERS), tuple(refused))


def write_index(tar: Path, table: pa.Table) -> Path:
    """Writes the index beside its tar and returns its path."""
    path = index_path(tar)
    write_atomic(path, table_bytes(table))
    return path


def read_index(tar: Path) -> pa.Table:
    """Reads the index beside a tar. Raises `FatalError` that says how to make one where there is none."""
    path = index_path(tar)
    if not path.is_file():
        raise FatalError(f"{tar}: has no index {path.name}; make one with `rlip shards index {tar}`")
    return read_index_file(path)


def read_index_file(path: Path) -> pa.Table:
    """Reads an index. Raises `FatalError` when it is none."""
    try:
        found = read_table(path, SHARD_MEMBERS)
        for name in ("shard", "key", "extension", "offset", "size", "digest", "check"):
            if found[name].null_count:
                raise ValueError(f"a row without {name}")
        return found
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise FatalError(
            f"{path}: not an index of a shard ({reason}); make it again with `rlip shards index`"
        ) from error


def faults(tar: Path, index: pa.Table, progress: Progress = lambda done, total: None) -> Iterator[str]:
    """Yields how a tar differs from its index, and what of it is refused. Reads the tar once."""
    found = index_tar(tar, progress)
    for entry in found.refused:
        yield f"{entry.name or tar.name}: {entry.reason}"
    told, there = (_by_name(table) for table in (index, found.table))
    for name in sorted(told.keys() | there.keys()):
        if name not in there:
            yield f"{name}: in the index, but not in the tar"
        elif name not in told:
            yield f"{name}: in the tar, but not in the index"
        elif told[name] != there[name]:
            different = "other bytes" if told[name][2] != there[name][2] else "another place"
            yield f"{name}: has {different} than the index says"


def _by_name(table: pa.Table) -> dict[str, tuple[int, int, str]]:
    columns = (table[name].to_pylist() for name in ("key", "extension", "offset", "size", "digest"))
    return {f"{key}.{extension}": place for key, extension, *place in zip(*columns, strict=True)}  # type: ignore[misc]


def _row(tar: str, member: Member, digest: str, check: str) -> dict[str, object]:
    return {
        "shard": tar,
        "key": member.key,
        "extension": member.extension,
        "offset": member.offset,
        "size": member.size,
        "digest": digest,
        "check": check,
        **dict.fromkeys(("dataset", "image_id", "width", "height", "phash")),
    }


def _digests(descriptor: int, member: Member) -> tuple[str, str]:
    """Returns the sha256 and the 128-bit XXH3 of a member's bytes."""
    digest, check = hashlib.sha256(), xxhash.xxh3_128()
    for start in range(0, member.size, _CHUNK):
        data = os.pread(descriptor, min(_CHUNK, member.size - start), member.offset + start)
        digest.update(data)
        check.update(data)
    return digest.hexdigest(), check.hexdigest()
