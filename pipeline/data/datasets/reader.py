"""The reader interface: yields the records of a dataset in a stable order and collects rejected rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.data.datasets.annotations import NO_IMAGE, AnnotationError, is_inside, shown
from pipeline.data.datasets.record import NO_OBJECT, AnnotatedRelation, Box, Draft, ImageRecord
from pipeline.data.datasets.source import DataSource
from pipeline.data.images.folders import open_folder
from pipeline.data.images.refs import ImageRef, uri_of
from pipeline.runtime.plugins import options_of
from pipeline.runtime.stage import Rejected

MAX_WAITING = 10_000
"""Maximum number of records held back until one of their images is found."""
_LARGEST = float(np.finfo(np.float32).max)


class Reader(ABC):
    """Reads one source. Subclasses parse a format. A format of another package has a `version`, to be raised whenever
    the same files would give different records, and may have `Options`, the `options` of a source, available as
    `self.options`.
    """

    files: ClassVar[Mapping[str, str]] = {"annotations": "JSON"}
    """The fields of a source that the format reads → the kind of file: JSON, CSV, HDF5, or else text."""
    required: ClassVar[tuple[str, ...]] = ()
    """Required fields, besides the annotations."""

    def __init__(self, source: DataSource, scratch: Path | None = None) -> None:
        self.source = source
        self.options = options_of(self, source.options, "options")
        self.scratch = scratch
        """Folder for large temporary files while reading; the system default when None."""
        self.report: Callable[[float], None] = lambda share: None
        """Called from time to time with the share of the annotations read so far, 0 to 1."""
        self.folder = open_folder(source.image_root)
        self.rejects: list[Rejected] = []
        """Rejected rows without a record: no usable id or file name, or a duplicate. Complete after `read`."""
        self.objects: tuple[str, ...] = ()
        """The dataset's own object names by id, complete once it is read; empty if names are free text."""
        self.predicates: tuple[str, ...] = ()
        """The dataset's own predicate names, in the same way."""

    def read(self) -> Iterator[ImageRecord]:
        """Yields the records in the order of the annotation file. Raises `AnnotationError`.

        Single missing images are left to `validate`. A folder with none of the images is an error, raised before the
        first record (after the last one in datasets of more than 10,000 images).
        """
        self.rejects.clear()
        yield from self._held_back(map(self._completed, self._records()))

    def annotations(self) -> Iterator[ImageRecord]:
        """Yields records from the annotation files alone, without looking for images. Raises `AnnotationError`.

        Predicates are the dataset's own names. A relation without an object has -1 as `object`. If files state neither
        pixels nor image sizes, boxes are shares of the image, and the record is 1 wide and 1 high. Boxes that tables
        can't represent are rejected, as in `validate`.
        """
        self.rejects.clear()
        yield from map(_finite, self._records())

    def record(
        self,
        image_id: int,
        path: ImageRef,
        size: tuple[int | None, int | None] = (None, None),
        boxes: Iterable[Box] = (),
        relations: Iterable[AnnotatedRelation] = (),
        rejects: Iterable[Rejected] = (),
    ) -> ImageRecord:
        """The record of an image of this source. `size`: declared width and height."""
        source = self.source
        return ImageRecord(
            source.name, source.split, image_id, path, *size, tuple(boxes), tuple(relations), tuple(rejects)
        )

    def accepted(self, image_id: int | None, name: Any, seen: set[int]) -> tuple[int, str] | None:
        """The id and the file name of an image, if both are valid and the id is not in `seen`, to which it is added.
        Other images are rejected. Backslashes in names separate folders, as on Windows.
        """
        if image_id is None:
            reason = "image id not an integer"
        elif not isinstance(name, str) or not is_inside(name):
            reason = "file name not usable"
        elif image_id in seen:
            reason = "duplicate image id"
        else:
            seen.add(image_id)
            return image_id, name.replace("\\", "/")
        self.rejects.append(Rejected(NO_IMAGE if image_id is None else image_id, reason, shown(name)))
        return None

    def drafted(self, draft: Draft, path: ImageRef, size: tuple[int | None, int | None] = (None, None)) -> ImageRecord:
        """The record of an image from its collected boxes and relations."""
        return self.record(draft.image_id, path, size, draft.boxes, draft.relations, draft.rejects)

    @property
    def annotation_file(self) -> Path:
        """The annotation file, which every format has but that of bare images."""
        return self.required_file("annotations")

    def required_file(self, name: str) -> Path:
        """The file in a field of the source that the format requires."""
        path: Path | None = getattr(self.source, name)
        assert path is not None  # DataSource requires it for this format
        return path

    def place(self, name: str) -> ImageRef:
        """The location of the image with this name; `name` is relative to the images folder."""
        return self.folder.place(name)

    def name(self, record: ImageRecord) -> str:
        """The name by which `place` finds the record's image."""
        return uri_of(record.path, self.source.images)

    def require_one(self, records: Iterable[ImageRecord]) -> None:
        """Raises `AnnotationError` when none of the records' images exists."""
        first, count = None, 0
        for record in records:
            if record.path.is_file():
                return
            first, count = first or record, count + 1
        raise self._none_exists(first, count)

    @abstractmethod
    def _records(self) -> Iterator[ImageRecord]:
        """Parses the annotation files."""

    def _completed(self, record: ImageRecord) -> ImageRecord:
        """Makes a record as `read` yields it."""
        return record

    def sized(self, record: ImageRecord) -> ImageRecord:
        """Completes a record from the cached index with what only the image file states, since that file may change."""
        return record

    def _held_back(self, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        waiting: list[ImageRecord] = []
        first, count, found = None, 0, False
        for record in records:
            first, count = first or record, count + 1
            found = found or record.path.is_file()
            waiting.append(record)
            if found or len(waiting) > MAX_WAITING:
                yield from waiting
                waiting.clear()
        if not found:
            raise self._none_exists(first, count)

    def _none_exists(self, first: ImageRecord | None, count: int) -> AnnotationError:
        source = self.source
        if first is None:
            examples = {reject.reason: f"{reject.reason}: {reject.value}" for reject in reversed(self.rejects)}
            reasons = "; ".join(sorted(examples.values())) or "the list of images is empty"
            return AnnotationError(f"{source.listed_in}: no usable image for dataset {source.name!r} ({reasons})")
        folder = Path(source.images)
        present = sorted(path.name for path in islice(folder.iterdir(), 3)) if folder.is_dir() else []
        holds = f"it contains {', '.join(present)}, ..." if present else "the folder is empty"
        holds = holds if folder.is_dir() else "it holds files with other names"
        expected = f"{source.images}/{uri_of(first.path, source.images)}"
        return AnnotationError(
            f"{source.images}: none of the {count} images of {source.name!r} exists; expected e.g. {expected}; "
            f"{holds}; set `images` to the folder that file names in {Path(source.listed_in).name} are relative to"
        )


def _finite(record: ImageRecord) -> ImageRecord:
    """Rejects boxes whose numbers are not finite in single precision, and their relations."""
    kept = [index for index, box in enumerate(record.boxes) if all(abs(side) <= _LARGEST for side in box[1:5])]
    if len(kept) == len(record.boxes):
        return record
    places = {index: place for place, index in enumerate(kept)} | {NO_OBJECT: NO_OBJECT}
    rejects = [
        Rejected(record.image_id, "box not finite", box.written())
        for index, box in enumerate(record.boxes)
        if index not in places
    ]
    relations = []
    for relation in record.relations:
        if relation.subject in places and relation.object in places:
            relations.append(relation._replace(subject=places[relation.subject], object=places[relation.object]))
        else:
            rejects.append(Rejected(record.image_id, "relation without box", shown(relation.predicate)))
    boxes = tuple(record.boxes[index] for index in kept)
    return replace(record, boxes=boxes, relations=tuple(relations), rejects=(*record.rejects, *rejects))
