"""Caches a source's records on disk by image, so that annotation files are parsed only once.

An index folder is named by a digest of its inputs, appears atomically and is only a cache: a damaged one is rebuilt
when it is read, and it may be deleted at any time. Its file `records` holds one JSON line per image, `names` the names
of images, `lost` the rejected rows without a record, and `places.npy` five numbers per image: its id, where line and
name begin, and the XXH3 of each, which is compared whenever one is read. `seal` is the XXH3 of `places.npy` and `lost`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_digest, xxh3_128_digest

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.bare_images import image_names
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.data.datasets.source import FURTHER_FILES, DataSource
from pipeline.data.images.folders import open_folder
from pipeline.data.images.refs import ImageRef
from pipeline.runtime.plugins import options_of, plugin_terms
from pipeline.runtime.stage import Rejected
from storage.atomic import atomic_folder
from storage.digests import digest_file, digest_json
from storage.disk import LOCAL
from storage.errors import translate_os_errors

_FILES = ("records", "names", "places.npy", "lost", "seal")


class DamagedIndex(Exception):
    """A file of an index is missing or does not match its checksum."""


class IndexFiles:
    """The files of a stored index. Raises `DamagedIndex` here and wherever something is read."""

    def __init__(self, folder: Path) -> None:
        try:
            numbers, lost, seal = ((folder / name).read_bytes() for name in ("places.npy", "lost", "seal"))
            self._records, self._names = ((folder / name).open("rb") for name in ("records", "names"))
        except OSError as error:
            raise DamagedIndex(f"{Path(error.filename).name}: {error.strerror}") from error
        if _seal(numbers, lost) != seal:
            raise DamagedIndex("places.npy or lost does not match its checksum")
        places: npt.NDArray[np.int64] = np.load(io.BytesIO(numbers), allow_pickle=False)
        self.ids = places[0, :-1]
        self.lost: list[list[Any]] = json.loads(lost)
        """Image id, reason and value of each reject."""
        self._starts, self._name_starts, self._checks, self._name_checks = places[1:]

    def line(self, position: int) -> bytes:
        """The values of a record, as a JSON array."""
        return _read(self._records, self._starts, self._checks, position)

    def name(self, position: int) -> str:
        """The name of an image."""
        return _read(self._names, self._name_starts, self._name_checks, position).decode()

    def require_whole(self) -> None:
        """Read everything once."""
        for position in range(len(self.ids)):
            self.line(position)
            self.name(position)
        for file, starts in ((self._records, self._starts), (self._names, self._name_starts)):
            if os.fstat(file.fileno()).st_size != starts[-1]:
                raise DamagedIndex(f"{Path(file.name).name}: its size changed since it was written")


def write_index(reader: Reader, folder: Path) -> None:
    """Write the files of an index into an empty folder, and sync them."""
    places = array("q")
    with (folder / "records").open("wb", 2**20) as records, (folder / "names").open("wb", 2**20) as names:
        start = name_start = 0
        for record in reader.read():
            line, name = _line(record), reader.name(record).encode()
            places.extend((record.image_id, start, name_start, _check(line), _check(name)))
            start += records.write(line)
            name_start += names.write(name)
        places.extend((0, start, name_start, 0, 0))
    columns = np.frombuffer(places, np.int64).reshape(-1, 5).T
    np.save(folder / "places.npy", np.ascontiguousarray(columns), allow_pickle=False)
    lost = json.dumps([[reject.image_id, reject.reason, reject.value] for reject in reader.rejects]).encode()
    (folder / "lost").write_bytes(lost)
    (folder / "seal").write_bytes(_seal((folder / "places.npy").read_bytes(), lost))
    for file in _FILES:
        LOCAL.sync_file(folder / file)


def damaged_indexes(indexes: Path) -> Iterator[tuple[Path, str]]:
    """Read every index in a folder of indexes. Yields each folder with what is wrong with it, "" where nothing is.

    Indexes of earlier versions have no seal. They are never read again, so they are skipped.
    """
    for seal in sorted(indexes.glob("*/seal")):
        try:
            IndexFiles(seal.parent).require_whole()
            yield seal.parent, ""
        except DamagedIndex as damage:
            yield seal.parent, str(damage)


def _read(file: BinaryIO, starts: npt.NDArray[np.int64], checks: npt.NDArray[np.int64], position: int) -> bytes:
    start = int(starts[position])
    data = os.pread(file.fileno(), int(starts[position + 1]) - start, start)
    if _check(data) != checks[position]:
        raise DamagedIndex(f"{Path(file.name).name}: the data at byte {start:,} does not match its checksum")
    return data


def _check(data: bytes) -> int:
    return int.from_bytes(xxh3_64_digest(data), "little", signed=True)


def _seal(numbers: bytes, lost: bytes) -> bytes:
    return xxh3_128_digest(xxh3_128_digest(numbers) + xxh3_128_digest(lost))


def _line(record: ImageRecord) -> bytes:
    rejects = [(reject.reason, reject.value) for reject in record.rejects]
    size = record.width, record.height
    values = (record.image_id, *size, record.boxes, record.relations, rejects, record.unpublished)
    return json.dumps(values).encode("ascii") + b"\n"


T = TypeVar("T")

LAYOUT = 3
"""Incremented whenever this module changes what is written, which gives every partition another digest."""
READERS = 4
"""Incremented whenever readers read other records from the same files, so that indexes are built again."""
_READ_WHOLE_BELOW = 2**23
"""Annotation files below this size in bytes are digested by content, larger ones by inode, size and times."""
_SPARED_SECONDS = 86_400.0
"""Age below which a replaced index is not removed, because another run may still be reading it."""


class RecordIndex:
    """The records of one source in file order. Memory holds only a few numbers per image."""

    def __init__(self, folder: Path, reader: Reader, rebuild: Callable[[], None]) -> None:
        """`rebuild` is called to rebuild a damaged index."""
        self.folder = folder
        self._reader = reader
        self._rebuild = rebuild
        try:
            self._files = IndexFiles(folder)
        except DamagedIndex:
            self._reopen()
        self.ids = self._files.ids
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        self.lost = [Rejected(*row) for row in self._files.lost]
        """Rejected rows without a record: no usable id or file name, a duplicate, or an unknown image."""

    def present(self, image_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids that have a record, in the given order."""
        wanted = np.asarray(image_ids, np.int64)
        found = np.searchsorted(self._sorted, wanted)
        # An id above all others has no place there; any other place holds an id that differs from it.
        found[found == len(self._sorted)] = 0
        return tuple(wanted[self._sorted[found] == wanted].tolist())

    def records(self, image_ids: Sequence[int]) -> Iterator[ImageRecord]:
        """Yields the records of images that are present, in the given order."""
        for position in self._positions(image_ids):
            yield self._record(position)

    def names(self) -> Iterator[tuple[int, str]]:
        """Yields each image's id with its name, in file order."""
        for position, image_id in enumerate(self.ids.tolist()):
            yield image_id, self._name(position)

    def refs(self, image_ids: Sequence[int]) -> Iterator[ImageRef]:
        """Yields the image locations of `records` without reading the boxes."""
        for position in self._positions(image_ids):
            yield self._reader.place(self._name(position))

    def digest(self, image_ids: Sequence[int]) -> str:
        """Digest of the records of images that are present, and of their names, in the given order."""
        found = hashlib.sha256(f"{LAYOUT}\n".encode())
        for position in self._positions(image_ids):
            found.update(f"{self._name(position)}\n".encode() + self._line(position))
        return found.hexdigest()

    def require_one_image(self) -> None:
        """Raises `AnnotationError` when none of the images exists, or none does any longer."""
        self._reader.require_one(self)

    def __iter__(self) -> Iterator[ImageRecord]:
        for position in range(len(self.ids)):
            yield self._record(position)

    def _positions(self, image_ids: Sequence[int]) -> list[int]:
        wanted = np.asarray(image_ids, np.int64)
        if len(present := self.present(image_ids)) < len(wanted):
            gone = next(iter(set(wanted.tolist()) - set(present)))
            raise AnnotationError(
                f"dataset {self._reader.source.name!r}: image {gone} disappeared after the run was planned; run again"
            )
        positions: list[int] = self._order[np.searchsorted(self._sorted, wanted)].tolist()
        return positions

    def _reopen(self) -> None:
        self._rebuild()
        self._files = IndexFiles(self.folder)

    def _checked(self, read: Callable[[IndexFiles], T]) -> T:
        """What is read from the files. Damaged ones are rebuilt, with the same content."""
        try:
            return read(self._files)
        except DamagedIndex:
            self._reopen()
            return read(self._files)

    def _name(self, position: int) -> str:
        return self._checked(lambda files: files.name(position))

    def _line(self, position: int) -> bytes:
        return self._checked(lambda files: files.line(position))

    def _record(self, position: int) -> ImageRecord:
        image_id, width, height, boxes, relations, rejects, unpublished = json.loads(self._line(position))
        record = self._reader.record(
            image_id,
            self._reader.place(self._name(position)),
            (width, height),
            (Box(*box) for box in boxes),
            (AnnotatedRelation(*relation) for relation in relations),
            (Rejected(image_id, reason, value) for reason, value in rejects),
        )
        return self._reader.sized(replace(record, unpublished=True) if unpublished else record)


def is_indexed(source: DataSource, folder: Path | None) -> bool:
    """Whether `open_index` would find an existing index. Also true when no index could be stored."""
    return folder is None or not _writable(folder) or _place(source, folder).is_dir()


def open_index(source: DataSource, folder: Path | None, report: Callable[[float], None] | None = None) -> RecordIndex:
    """Opens the index of a source in `folder`, building it if the annotation files are new.

    Without a writable `folder` the index is private to this process. `report` gets the share of the annotations read so
    far, 0 to 1. Raises `AnnotationError` when the files cannot be used, or no image exists on building.
    """
    if folder is None or not _writable(folder):
        folder = Path(_private().name)
    reader = open_source(source, folder)
    reader.report = report or reader.report
    path = _place(source, folder)
    if not path.is_dir():
        _build(reader, path)
        _remove_older(path, source.name)
    return RecordIndex(path, reader, partial(_rebuild, source, folder, path))


@cache
def _private() -> tempfile.TemporaryDirectory[str]:
    """A folder for indexes that is removed at the end of this process."""
    return tempfile.TemporaryDirectory(prefix="rlip-index-")


def _rebuild(source: DataSource, folder: Path, path: Path) -> None:
    """Replaces a damaged index. Raises `AnnotationError` when the annotations have changed since it was built."""
    if _place(source, folder) != path:
        raise AnnotationError(
            f"dataset {source.name!r}: {path} is damaged, and its annotations have changed since it was built; run "
            "again"
        )
    _build(open_source(source, folder), path, overwrite=True)


def _place(source: DataSource, folder: Path) -> Path:
    return folder / f"{source.name}-{_digest(source)[:24]}"


def _build(reader: Reader, path: Path, overwrite: bool = False) -> None:
    """Writes the index. If another process was faster, its index is kept, unless `overwrite` is set."""
    with (
        translate_os_errors(f"reading the annotations of {reader.source.name} into {path.parent}"),
        atomic_folder(path, replace=overwrite) as aside,
    ):
        write_index(reader, aside)


def _digest(source: DataSource) -> str:
    """Digest of the index inputs: the annotation files, or the names of bare images, and how they are read."""
    files: dict[str, Any] = {}
    for name in ("annotations", *FURTHER_FILES):
        path: Path | None = getattr(source, name)
        if path is not None:
            files[name] = _stamp(path)
    if not source.has_boxes:
        files["pictures"] = digest_json(image_names(open_folder(source.images)))
    kept = {"name", "format", "split", "drop_fake", "drop_reflected"}
    plugin = plugin_terms(source.reader, options_of(source.reader, source.options, "options"))
    return digest_json(
        [LAYOUT, READERS, source.model_dump(mode="json", include=kept), files, *([plugin] if plugin else [])]
    )


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    if status.st_size < _READ_WHOLE_BELOW:
        return [digest_file(path)]
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _remove_older(path: Path, name: str) -> None:
    """Removes indexes of older annotations, and incomplete ones left by killed processes."""
    mark = f"{name}-{'?' * 24}"
    for other in (*path.parent.glob(mark), *path.parent.glob(f".{mark}.*")):
        if other != path and time.time() - other.stat().st_mtime > _SPARED_SECONDS:
            shutil.rmtree(other, ignore_errors=True)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def open_source(source: DataSource, scratch: Path | None = None, with_images: bool = True) -> Reader:
    """Creates the reader of a source. Raises `AnnotationError`, naming the folder and files that are missing.

    `with_images`: False for `Reader.annotations` alone, which needs no images.
    """
    if lacking := source.missing() if with_images else source.missing_files():
        raise AnnotationError(f"dataset {source.name!r} ({source.format}): " + "; ".join(lacking))
    reader: Reader = source.reader(source, scratch)
    return reader
