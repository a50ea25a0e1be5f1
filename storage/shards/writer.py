"""Writes WebDataset tars. Equal samples give equal bytes, whatever the clock, the user or the machine."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import xxhash

from storage.digests import digest_bytes
from storage.errors import FatalError
from storage.tables import SHARD_MEMBERS

LABELS = "json"
"""Extension of the member that holds the labels of a sample."""
_COPIED_AT_ONCE = 2**24
"""Bytes; tarfile's default of 16 KiB takes more CPU time."""
_KEY = re.compile(r"[A-Za-z0-9_%-]{1,90}")
"""What may precede the extension: no dot, and short enough for the name field of a tar's header."""


@dataclass(frozen=True)
class Sample:
    """One image of a shard: its dataset and id, and its members' bytes by extension (`jpg`, `json`, ...)."""

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

    A tar takes samples until another one would make it larger than `max_bytes`, but at least one. Members have USTAR
    headers with mtime 0, owner 0:0 and mode 0644, which are the defaults of `TarInfo`, in the given order.
    """
    rows: list[dict[str, object]] = []
    shards: list[str] = []
    tar: tarfile.TarFile | None = None
    for sample in samples:
        if tar is None or not _has_room(tar, sample, max_bytes):
            if tar is not None:
                tar.close()
            shards.append(f"shard-{len(shards):03d}.tar")
            tar = tarfile.TarFile(folder / shards[-1], "w", format=tarfile.USTAR_FORMAT, copybufsize=_COPIED_AT_ONCE)
        rows += _add(tar, shards[-1], sample)
    if tar is not None:
        tar.close()
    return pa.Table.from_pylist(rows, schema=SHARD_MEMBERS)


def tars_among(files: Iterable[str]) -> list[str]:
    """Returns the tars among names of files, in the order in which `write_shards` wrote them."""
    return sorted((name for name in files if name.endswith(".tar")), key=lambda name: (len(name), name))


def _has_room(tar: tarfile.TarFile, sample: Sample, max_bytes: int) -> bool:
    """Whether the tar, with this sample and its end marker, stays within `max_bytes`."""
    added = sum(tarfile.BLOCKSIZE + _padded(len(data)) for data in sample.members.values())
    whole = tar.offset + added + 2 * tarfile.BLOCKSIZE
    return -(-whole // tarfile.RECORDSIZE) * tarfile.RECORDSIZE <= max_bytes


def _add(tar: tarfile.TarFile, shard: str, sample: Sample) -> Iterator[dict[str, object]]:
    """Adds the members of a sample and yields their index rows."""
    for extension, data in sorted(sample.members.items()):
        info = tarfile.TarInfo(f"{sample.key}.{extension}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        yield {
            "shard": shard,
            "key": sample.key,
            "extension": extension,
            "offset": tar.offset - _padded(len(data)),
            "size": len(data),
            "digest": digest_bytes(data),
            "check": xxhash.xxh3_128_hexdigest(data),
            "dataset": sample.dataset,
            "image_id": sample.image_id,
            "width": sample.width,
            "height": sample.height,
            "phash": sample.phash if extension != LABELS else None,
        }


def _padded(size: int) -> int:
    """The number of bytes up to the next block that a member's bytes take."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
