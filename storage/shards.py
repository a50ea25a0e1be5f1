"""Tar shards in WebDataset's layout. Equal samples give equal bytes; samples are read by offset."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from storage.errors import FatalError
from storage.tables import SHARD_MEMBERS

MEMBER = re.compile(r"(\d{12})\.(jpg|png|webp|bmp|json)")
"""The only member names that shards may hold. The reader refuses anything else."""


@dataclass(frozen=True)
class Sample:
    """One image of a shard: its id and its members' bytes by extension (`jpg`, `json`, ...)."""

    image_id: int
    members: Mapping[str, bytes]


def write_shard(path: Path, samples: Iterable[Sample]) -> pa.Table:
    """Write a tar and return its index (schema `SHARD_MEMBERS`).

    Members have mtime 0, owner 0:0, mode 0644 and USTAR headers, in the given order: no clock, user or host matters.
    """
    rows: list[dict[str, object]] = []
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for extension, data in sorted(sample.members.items()):
                info = tarfile.TarInfo(f"{sample.image_id:012d}.{extension}")
                info.size, info.mode, info.mtime = len(data), 0o644, 0
                tar.addfile(info, io.BytesIO(data))
                padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                rows.append(
                    {
                        "image_id": sample.image_id,
                        "member": info.name,
                        "offset": tar.offset - padded,
                        "size": len(data),
                    }
                )
    return pa.Table.from_pylist(rows, schema=SHARD_MEMBERS)


class ShardReader:
    """Reads samples of one tar by its index, without scanning or extraction. Member names must match `MEMBER`."""

    def __init__(self, path: Path, index: pa.Table) -> None:
        self.path = path
        self._members: dict[int, dict[str, tuple[int, int]]] = {}
        for row in index.to_pylist():
            match = MEMBER.fullmatch(row["member"])
            if match is None:
                raise FatalError(f"{path}: member name {row['member']!r} is not allowed; rebuild the shard")
            self._members.setdefault(row["image_id"], {})[match[2]] = (row["offset"], row["size"])
        self._file = path.open("rb")

    @property
    def image_ids(self) -> list[int]:
        """Ids of the samples, in the order of the tar."""
        return list(self._members)

    def read(self, image_id: int) -> Sample:
        """One sample. Raises KeyError for an unknown id and `FatalError` when the tar is shorter than its index says."""
        members = {}
        for extension, (offset, size) in self._members[image_id].items():
            self._file.seek(offset)
            data = self._file.read(size)
            if len(data) != size:
                raise FatalError(f"{self.path}: ends before member {image_id:012d}.{extension}; rebuild the shard")
            members[extension] = data
        return Sample(image_id, members)

    def close(self) -> None:
        """Close the tar."""
        self._file.close()
