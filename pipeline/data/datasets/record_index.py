"""Caches a source's records on disk by image, so that annotation files are parsed only once.

An index folder is named by a digest of its inputs, appears atomically and is only a cache: a damaged one is rebuilt
when it is read, and it may be deleted at any time. Its file `records.parquet` holds a row per image, with the rejected
rows without a record in its metadata, and `records.seal` the XXH3 of its bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_128

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

_RECORDS, _SEAL = "records.parquet", "records.seal"
_ROWS = pa.schema({"image_id": pa.int64(), "name": pa.string(), "values": pa.binary()})
"""`values`: those of a record as a JSON array, in a line."""
_GROUP = 1000
"""Images that are written, and so read, together."""


class DamagedIndex(Exception):
    """A file of an index is missing or does not match its checksum."""


class IndexFile:
    """A stored index. Raises `DamagedIndex` here and wherever something is read."""

    def __init__(self, folder: Path) -> None:
        try:
            if (folder / _SEAL).read_bytes() != _seal(folder):
                raise DamagedIndex(f"{_RECORDS} does not match its checksum")
        except OSError as error:
            raise DamagedIndex(f"{Path(error.filename).name}: {error.strerror}") from error
        # Pages have checksums of their own, which are compared whenever one is read.
        self._file = pq.ParquetFile(folder / _RECORDS, page_checksum_verification=True)
        self.ids = self._file.read(["image_id"])["image_id"].to_numpy()
        self.lost: list[list[Any]] = json.loads(self._file.metadata.metadata[b"lost"])
        """Image id, reason and value of each reject."""

    def rows(self, columns: Sequence[str], positions: Sequence[int]) -> list[tuple[Any, ...]]:
        """The values of these columns at these positions, in their order."""
        wanted = np.asarray(positions, np.int64)
        groups, own = np.unique(wanted // _GROUP, return_inverse=True)
        found: list[tuple[Any, ...]] = [()] * len(wanted)
        # One group at a time: the positions may be spread over all of them.
        for number, group in enumerate(groups.tolist()):
            places = np.flatnonzero(own == number)
            try:
                read = self._file.read_row_group(group, columns=[*columns], use_threads=False)
                rows = read.take(wanted[places] % _GROUP)
            except (OSError, pa.ArrowException) as error:
                raise DamagedIndex(f"{_RECORDS}: {error}") from error
            values = zip(*(rows[name].to_pylist() for name in columns), strict=True)
            for place, row in zip(places.tolist(), values, strict=True):
                found[place] = row
        return found


def write_index(reader: Reader, folder: Path) -> None:
    """Write the files of an index into an empty folder, and sync them."""
    records = reader.read()
    with pq.ParquetWriter(folder / _RECORDS, _ROWS, compression="zstd", write_page_checksum=True) as file:
        while batch := [
            {"image_id": each.image_id, "name": reader.name(each), "values": _line(each)}
            for each in islice(records, _GROUP)
        ]:
            file.write_table(pa.Table.from_pylist(batch, schema=_ROWS))
        lost = [[reject.image_id, reject.reason, reject.value] for reject in reader.rejects]
        file.add_key_value_metadata({"lost": json.dumps(lost)})
    (folder / _SEAL).write_bytes(_seal(folder))
    for name in (_RECORDS, _SEAL):
        LOCAL.sync_file(folder / name)


def damaged_indexes(indexes: Path) -> Iterator[tuple[Path, str]]:
    """Read every index in a folder of indexes. Yields each folder with what is wrong with it, "" where nothing is.

    Indexes of earlier versions have other files. They are never read again, so they are skipped.
    """
    for folder in sorted({path.parent for name in (_RECORDS, _SEAL) for path in indexes.glob(f"*/{name}")}):
        try:
            IndexFile(folder)
            yield folder, ""
        except DamagedIndex as damage:
            yield folder, str(damage)


def _seal(folder: Path) -> bytes:
    with (folder / _RECORDS).open("rb") as file:
        return hashlib.file_digest(file, xxh3_128).digest()


def _line(record: ImageRecord) -> bytes:
    rejects = [(reject.reason, reject.value) for reject in record.rejects]
    size = record.width, record.height
    values = (record.image_id, *size, record.boxes, record.relations, rejects, record.unpublished)
    return json.dumps(values).encode("ascii") + b"\n"


LAYOUT = 3
"""Incremented whenever the values of a record are written otherwise, which gives every partition another digest."""
READERS = 7
"""Incremented whenever readers read other records from the same files, or an index has other files, so that indexes are
built again."""
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
            self._file = IndexFile(folder)
        except DamagedIndex:
            self._reopen()
        self.ids = self._file.ids
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        self.lost = [Rejected(*row) for row in self._file.lost]
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
        return self._records(self._positions(image_ids))

    def names(self) -> Iterator[tuple[int, str]]:
        """Yields each image's id with its name, in file order."""
        yield from self._rows(("image_id", "name"), range(len(self.ids)))

    def refs(self, image_ids: Sequence[int]) -> Iterator[ImageRef]:
        """Yields the image locations of `records` without reading the boxes."""
        for (name,) in self._rows(("name",), self._positions(image_ids)):
            yield self._reader.place(name)

    def digest(self, image_ids: Sequence[int]) -> str:
        """Digest of the records of images that are present, and of their names, in the given order."""
        found = hashlib.sha256(f"{LAYOUT}\n".encode())
        for name, line in self._rows(("name", "values"), self._positions(image_ids)):
            found.update(f"{name}\n".encode() + line)
        return found.hexdigest()

    def require_one_image(self) -> None:
        """Raises `AnnotationError` when none of the images exists, or none does any longer."""
        self._reader.require_one(self)

    def __iter__(self) -> Iterator[ImageRecord]:
        return self._records(range(len(self.ids)))

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
        self._file = IndexFile(self.folder)

    def _rows(self, columns: Sequence[str], positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """What is read from the file. A damaged one is rebuilt, with the same content."""
        for start in range(0, len(positions), _GROUP):
            part = positions[start : start + _GROUP]
            try:
                found = self._file.rows(columns, part)
            except DamagedIndex:
                self._reopen()
                found = self._file.rows(columns, part)
            yield from found

    def _records(self, positions: Sequence[int]) -> Iterator[ImageRecord]:
        for name, line in self._rows(("name", "values"), positions):
            image_id, width, height, boxes, relations, rejects, unpublished = json.loads(line)
            record = self._reader.record(
                image_id,
                self._reader.place(name),
                (width, height),
                (Box(*box) for box in boxes),
                (AnnotatedRelation(*relation) for relation in relations),
                (Rejected(image_id, reason, value) for reason, value in rejects),
            )
            yield self._reader.sized(replace(record, unpublished=True) if unpublished else record)


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
        with suppress(FileNotFoundError):  # another process may have removed it first
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
