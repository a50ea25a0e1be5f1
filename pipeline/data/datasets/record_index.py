"""Caches a source's records on disk by image, so that annotation files are parsed only once.

An index folder holds `records`, one JSON line per image; `names` of images; `places.npy`, the offsets into both; and
`lost`, the rejects. Named by a digest of its inputs, it appears atomically and is only a cache: delete it at any time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.bare_images import BareImagesReader, picture_names
from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.hico_det import HicoDetReader
from pipeline.data.datasets.instances import InstancesReader
from pipeline.data.datasets.objects365 import Objects365Reader
from pipeline.data.datasets.open_images import OpenImagesReader
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, GivenRelation, ImageRecord
from pipeline.data.datasets.source import FURTHER_FILES, DataSource, Format
from pipeline.data.datasets.vcoco import VcocoReader
from pipeline.data.datasets.vg150 import Vg150Reader
from pipeline.data.datasets.visual_genome import VisualGenomeReader
from pipeline.data.datasets.vrd import VrdReader
from pipeline.data.images.folders import open_folder
from pipeline.data.images.refs import ImageRef
from pipeline.runtime.stage import Rejected
from storage.atomic import atomic_folder
from storage.digests import digest_file, digest_json
from storage.disk import LOCAL
from storage.errors import translate_os_errors

LAYOUT = 2
"""Incremented whenever readers or this module change what is written."""
_READ_WHOLE_BELOW = 2**23
"""Annotation files below this size in bytes are digested by content, larger ones by inode, size and times."""
_SPARED_SECONDS = 86_400.0
"""Age below which a replaced index is not removed, because another run may still be reading it."""


class RecordIndex:
    """The records of one source in file order. Memory holds only three numbers per image."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        self.folder = folder
        self._reader = reader
        places: npt.NDArray[np.int64] = np.load(folder / "places.npy", allow_pickle=False)
        self.ids, self._starts, self._name_starts = places[0, :-1], places[1], places[2]
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        self._records = (folder / "records").open("rb")
        self._names = (folder / "names").open("rb")
        rows = json.loads((folder / "lost").read_bytes())
        self.lost = [Rejected(*row) for row in rows]
        """Rows without a record: no usable id or file name, a duplicate, or annotations of an unknown image."""
        if os.fstat(self._records.fileno()).st_size != self._starts[-1]:
            raise AnnotationError(f"{folder}: damaged; delete that folder, it is rebuilt from the annotations")

    def present(self, image_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids that have a record, in the given order."""
        wanted = np.asarray(image_ids, np.int64)
        found = np.searchsorted(self._sorted, wanted)
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

    def require_one_image(self) -> None:
        """Raises `AnnotationError` when none of the images exists (any more)."""
        self._reader.require_one(self)

    def __iter__(self) -> Iterator[ImageRecord]:
        for position in range(len(self.ids)):
            yield self._record(position)

    def _positions(self, image_ids: Sequence[int]) -> list[int]:
        wanted = np.asarray(image_ids, np.int64)
        if len(present := self.present(image_ids)) < len(wanted):
            gone = next(iter(set(wanted.tolist()) - set(present)))
            raise AnnotationError(
                f"data set {self._reader.source.name!r}: image {gone} is gone since the run was planned; run again"
            )
        positions: list[int] = self._order[np.searchsorted(self._sorted, wanted)].tolist()
        return positions

    def _name(self, position: int) -> str:
        start, end = self._name_starts[position], self._name_starts[position + 1]
        return os.pread(self._names.fileno(), int(end - start), int(start)).decode()

    def _record(self, position: int) -> ImageRecord:
        start, end = self._starts[position], self._starts[position + 1]
        line = json.loads(os.pread(self._records.fileno(), int(end - start), int(start)))
        image_id, width, height, boxes, relations, rejects, unpublished = line
        source = self._reader.source
        return ImageRecord(
            source.name,
            source.split,
            image_id,
            self._reader.place(self._name(position)),
            width,
            height,
            tuple(Box(*box) for box in boxes),
            tuple(GivenRelation(*relation) for relation in relations),
            tuple(Rejected(image_id, reason, value) for reason, value in rejects),
            unpublished,
        )


def is_indexed(source: DataSource, folder: Path | None) -> bool:
    """Whether `open_index` would find an existing index. Also true when no index could be stored."""
    return folder is None or not _writable(folder) or _place(source, folder).is_dir()


def open_index(source: DataSource, folder: Path | None, report: Callable[[float], None] | None = None) -> RecordIndex:
    """Opens the index of a source in `folder`, building it if the annotation files are new.

    Without a writable `folder` the index is private to this process. `report` gets the share of the annotations read so
    far, 0 to 1. Raises `AnnotationError` when the files cannot be used, or no image exists on building.
    """
    if folder is None or not _writable(folder):
        reader = open_source(source)
        temporary = tempfile.TemporaryDirectory(prefix="rlip-index-")
        index = RecordIndex(_build(reader, Path(temporary.name) / "index"), reader)
        temporary.cleanup()  # the open file handles stay valid
        return index
    reader = open_source(source, folder)
    reader.report = report or reader.report
    path = _place(source, folder)
    if not path.is_dir():
        _build(reader, path)
        _remove_older(path, source.name)
    return RecordIndex(path, reader)


def _place(source: DataSource, folder: Path) -> Path:
    return folder / f"{source.name}-{_digest(source)[:24]}"


def _build(reader: Reader, path: Path) -> Path:
    """Writes the index. If another process was faster, its index is kept."""
    with (
        translate_os_errors(f"reading the annotations of {reader.source.name} into {path.parent}"),
        atomic_folder(path, replace=False) as aside,
    ):
        _write(reader, aside)
        for name in ("records", "names", "places.npy", "lost"):
            LOCAL.sync_file(aside / name)
    return path


def _write(reader: Reader, folder: Path) -> None:
    places = array("q")
    with (folder / "records").open("wb", 2**20) as records, (folder / "names").open("wb", 2**20) as names:
        start = name_start = 0
        for record in reader.read():
            places.extend((record.image_id, start, name_start))
            start += records.write(_line(record))
            name_start += names.write(reader.name(record).encode())
        places.extend((0, start, name_start))
    columns = np.frombuffer(places, np.int64).reshape(-1, 3).T
    np.save(folder / "places.npy", np.ascontiguousarray(columns), allow_pickle=False)
    lost = [[reject.image_id, reject.reason, reject.value] for reject in reader.rejects]
    (folder / "lost").write_text(json.dumps(lost))


def _line(record: ImageRecord) -> bytes:
    rejects = [(reject.reason, reject.value) for reject in record.rejects]
    values = (
        record.image_id,
        record.width,
        record.height,
        record.boxes,
        record.relations,
        rejects,
        record.unpublished,
    )
    return json.dumps(values).encode("ascii") + b"\n"


def _digest(source: DataSource) -> str:
    """Digest of the index inputs: the annotation files, or the names of bare pictures, and how they are read; no paths."""
    files: dict[str, Any] = {}
    for name in ("annotations", *FURTHER_FILES):
        path: Path | None = getattr(source, name)
        if path is not None:
            files[name] = _stamp(path)
    if not source.has_boxes:
        files["pictures"] = digest_json(picture_names(open_folder(source.images)))
    kept = {"name", "format", "split", "drop_fake", "drop_reflected"}
    return digest_json([LAYOUT, source.model_dump(mode="json", include=kept), files])


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


_READERS: dict[Format, type[Reader]] = {
    "coco": CocoReader,
    "objects365": Objects365Reader,
    "visual_genome": VisualGenomeReader,
    "hico_det": HicoDetReader,
    "hico_instances": InstancesReader,
    "vcoco": VcocoReader,
    "vcoco_instances": InstancesReader,
    "open_images": OpenImagesReader,
    "vg150": Vg150Reader,
    "vrd": VrdReader,
    "images": BareImagesReader,
}


def open_source(source: DataSource, scratch: Path | None = None) -> Reader:
    """Creates the reader of a source. Raises `AnnotationError`, naming the folder and files that are missing."""
    return _opened(source, source.missing(), scratch)


def open_annotations(source: DataSource, scratch: Path | None = None) -> Reader:
    """Creates a reader for `Reader.annotations`, which needs no images. Raises `AnnotationError` for missing files."""
    return _opened(source, source.missing_files(), scratch)


def _opened(source: DataSource, lacking: list[str], scratch: Path | None) -> Reader:
    if lacking:
        raise AnnotationError(f"data set {source.name!r} ({source.format}): " + "; ".join(lacking))
    return _READERS[source.format](source, scratch)
