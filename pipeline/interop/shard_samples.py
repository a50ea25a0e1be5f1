"""Reads samples of any WebDataset tar, and their labels if these have this project's format."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.training.sample import SampleBox, SampleRelation
from storage.errors import FatalError
from storage.shards.index import artifact_index
from storage.shards.scan import ENDS_EARLY, Member, Refused, scan_tar
from storage.shards.writer import LABELS

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
"""Extensions of the images that this project reads."""
MAX_LABELS_SIZE = 64 * 2**20
"""Maximum size in bytes of a member with labels."""
_PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip --keep"),
    (b"BZh", "bzip2", "bunzip2 --keep"),
    (b"\xfd7zXZ", "xz", "unxz --keep"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"PK\x03\x04", "zip", "unzip"),
)


@dataclass(frozen=True)
class TarSample:
    """Consecutive members that share a key."""

    key: str
    members: tuple[Member, ...]

    def image(self) -> Member | None:
        """The member with the image, if any."""
        return next((m for m in self.members if m.extension.rpartition(".")[2] in IMAGES), None)

    def labels(self) -> Member | None:
        """The member with the labels, if any."""
        return next((m for m in self.members if m.extension == LABELS), None)


@dataclass(frozen=True)
class SeenLabels:
    """The readable contents of a label file. Fields unknown to this version are ignored."""

    boxes: tuple[SampleBox, ...]
    relations: tuple[SampleRelation, ...]
    width: int | None
    """Width in pixels of the image that the boxes refer to."""


def require_tar(path: Path) -> None:
    """Raises `FatalError`, saying what to do, if a path is not a file or not an uncompressed tar, whatever its name."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror}; name a tar, e.g. shards/train-000.tar") from error
    if stat.S_ISDIR(mode):
        raise FatalError(f"{path}: is a folder; name the tars in it, e.g. {path}/*.tar")
    if not stat.S_ISREG(mode):
        raise FatalError(f"{path}: is a pipe or device; name a file")
    try:
        with path.open("rb") as file:
            begin = file.read(8)
    except OSError as error:
        raise FatalError(f"{path}: can't be read ({error.strerror})") from error
    if not begin:
        raise FatalError(f"{path}: is empty (0 bytes); restore the tar")
    for magic, name, command in _PACKED:
        if begin.startswith(magic):
            raise FatalError(f"{path}: is compressed ({name}), so its samples have no offset; `{command} {path}` first")


def tar_samples(path: Path) -> Iterator[TarSample | Refused]:
    """Yields the samples of a tar, and the refused entries, in order. Raises `FatalError` as `require_tar` does.

    For tars of the store, it reads the index; for others, headers only, since an index beside them may be outdated.
    """
    require_tar(path)
    members: list[Member] = []
    index = artifact_index(path)
    for entry in scan_tar(path) if index is None else _indexed(path, index):
        if isinstance(entry, Refused):
            yield entry
        elif members and entry.key != members[0].key:
            yield TarSample(members[0].key, tuple(members))
            members = [entry]
        else:
            members.append(entry)
    if members:
        yield TarSample(members[0].key, tuple(members))


def _indexed(path: Path, index: pa.Table) -> Iterator[Member | Refused]:
    size = path.stat().st_size
    for member in map(Member, *(index[name].to_pylist() for name in ("key", "extension", "offset", "size"))):
        if not 0 <= member.offset <= size - member.size:
            yield Refused(f"{member.key}.{member.extension}", ENDS_EARLY, damaged=True)
            return
        yield member


def read_member(descriptor: int, member: Member, longest: int) -> bytes | None:
    """Reads a member's bytes from its open tar. None if it is longer than `longest` or ends early."""
    if member.size > longest:
        return None
    data = os.pread(descriptor, member.size, member.offset)
    return data if len(data) == member.size else None


def read_labels(data: bytes) -> SeenLabels | None:
    """Reads labels in this project's format. None for anything else, such as other JSON."""
    try:
        values = json.loads(data)
        boxes = [SampleBox(str(box["category"]), *(_number(box[side]) for side in "xywh")) for box in values["objects"]]
        relations = [_relation(relation, len(boxes)) for relation in values["relations"]]
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return None
    width = values.get("width")
    return SeenLabels(tuple(boxes), tuple(relations), width if isinstance(width, int) and width > 0 else None)


def _relation(values: Any, boxes: int) -> SampleRelation:
    subject, object_ = values["subject"], values["object"]
    if not (isinstance(subject, int) and isinstance(object_, int) and 0 <= subject < boxes and 0 <= object_ < boxes):
        raise ValueError("a relation refers to a missing box")
    stated = values.get("confidence")
    # Training, too, assumes 1 where none is stated.
    confidence = 1.0 if stated is None else _number(stated)
    return SampleRelation(subject, object_, str(values["predicate"]), confidence)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value}: not a finite number")
    return number
