"""Writes WebDataset tars. Equal samples give equal bytes, whatever the clock, the user or the machine."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import xxhash

from storage.errors import FatalError
from storage.tables import SHARD_MEMBERS

LABELS = "json"
"""Extension of the member that holds the labels of a sample."""
_KEY = re.compile(r"[A-Za-z0-9_%-]{1,90}")
"""What may precede the extension: no dot, and short enough for the name field of a tar's header."""


@dataclass(frozen=True)
class Sample:
    """One image of a shard: whose image it is, and its members' bytes by extension (`jpg`, `json`, ...)."""

    dataset: str
    image_id: int
    members: Mapping[str, bytes]
    width: int
    """Width of the image in pixels."""
    height: int
    phash: int | None = None
    """The perceptual hash of the image, if it has one."""

    @cached_property
    def key(self) -> str:
        """The name of its members before the extension, e.g. `coco-000000000139`."""
        return sample_key(self.dataset, self.image_id)


def sample_key(dataset: str, image_id: int) -> str:
    """Returns the name of a sample, e.g. `coco-000000000139`. A dot would begin the extension, so it becomes "%2E".

    Raises `FatalError` for a name that a tar cannot hold.
    """
    key = f"{_named(dataset)}{image_id:012d}"
    if not _KEY.fullmatch(key):
        raise FatalError(f"{key[:120]!r}: the name of dataset {dataset!r} can't name files in a shard; rename it")
    return key


def image_id_of(key: str, dataset: str) -> int:
    """Returns the image id in the name of a sample. Ids below 0, as Open Images has, add their own "-"."""
    return int(key.removeprefix(_named(dataset)))


def _named(dataset: str) -> str:
    return f"{dataset.replace('.', '%2E')}-"


def write_shards(folder: Path, samples: Iterable[Sample], max_bytes: int) -> pa.Table:
    """Writes `shard-000.tar`, `shard-001.tar`, ... and returns their index (schema `SHARD_MEMBERS`).

    A tar takes samples until another one would make it larger than `max_bytes`, but at least one. Members have mtime 0,
    owner 0:0, mode 0644 and USTAR headers, in the given order.
    """
    rows: list[dict[str, object]] = []
    numbers = 0
    tar: _Tar | None = None
    for sample in samples:
        if tar is None or not tar.has_room(sample, max_bytes):
            if tar is not None:
                tar.close()
            tar = _Tar(folder / f"shard-{numbers:03d}.tar")
            numbers += 1
        rows += tar.add(sample)
    if tar is not None:
        tar.close()
    return pa.Table.from_pylist(rows, schema=SHARD_MEMBERS)


def tars_among(files: Iterable[str]) -> list[str]:
    """Returns the tars among names of files, in the order in which `write_shards` wrote them."""
    return sorted((name for name in files if name.endswith(".tar")), key=lambda name: (len(name), name))


class _Tar:
    """A tar that is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._size = 0

    def has_room(self, sample: Sample, max_bytes: int) -> bool:
        """Whether the tar, with this sample and its end marker, stays within `max_bytes`."""
        added = sum(tarfile.BLOCKSIZE + len(data) + _padding(len(data)) for data in sample.members.values())
        whole = self._size + added + 2 * tarfile.BLOCKSIZE
        return -(-whole // tarfile.RECORDSIZE) * tarfile.RECORDSIZE <= max_bytes

    def add(self, sample: Sample) -> list[dict[str, object]]:
        """Adds the members of a sample and returns their index rows."""
        rows: list[dict[str, object]] = []
        for extension, data in sorted(sample.members.items()):
            offset = self._write(f"{sample.key}.{extension}", data)
            rows.append(
                {
                    "shard": self._path.name,
                    "key": sample.key,
                    "extension": extension,
                    "offset": offset,
                    "size": len(data),
                    "digest": hashlib.sha256(data).hexdigest(),
                    "check": xxhash.xxh3_128_hexdigest(data),
                    "dataset": sample.dataset,
                    "image_id": sample.image_id,
                    "width": sample.width,
                    "height": sample.height,
                    "phash": sample.phash if extension != LABELS else None,
                }
            )
        return rows

    def close(self) -> None:
        """Writes the end marker: two empty blocks, and more up to a whole record."""
        end = 2 * tarfile.BLOCKSIZE
        self._file.write(bytes(end + -(self._size + end) % tarfile.RECORDSIZE))
        self._file.close()

    def _write(self, name: str, data: bytes) -> int:
        """Writes a member and returns the offset of its bytes."""
        header = _header(name, len(data))
        for part in (header, data, bytes(_padding(len(data)))):
            self._file.write(part)
        offset = self._size + len(header)
        self._size = offset + len(data) + _padding(len(data))
        return offset


def _header(name: str, size: int) -> bytes:
    """A USTAR header with mode 0644 and zeros for owner and time, which are the defaults of `TarInfo`."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> int:
    """The number of bytes after a member's bytes up to the next block."""
    return -size % tarfile.BLOCKSIZE
