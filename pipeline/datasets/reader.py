"""The one way in: a reader yields the records of a data set in a stable order and keeps what it had to leave out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pipeline.datasets.annotations import AnnotationError
from pipeline.datasets.record import ImageRecord
from pipeline.datasets.source import Source
from pipeline.stage import Rejected


class Reader(ABC):
    """Reads one source. Subclasses parse; this class holds what is the same for every format."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.rejects: list[Rejected] = []
        """Rows that became no record (no usable id or file name, a duplicate); complete when `read` has ended."""

    def read(self) -> Iterator[ImageRecord]:
        """The records in the order of the annotation file. Raises `AnnotationError` before the first one.

        A single missing image is left to `validate`; only a folder that has none of the images is an error here.
        """
        self.rejects.clear()
        records = list(self._records())
        self._require_images(records)
        yield from records

    @abstractmethod
    def _records(self) -> Iterator[ImageRecord]:
        """Parse the annotation files."""

    def _require_images(self, records: list[ImageRecord]) -> None:
        source = self.source
        if not records:
            reasons = "; ".join(sorted({reject.reason for reject in self.rejects})) or "the list of images is empty"
            raise AnnotationError(f"{source.annotations}: no usable image for data set {source.name!r} ({reasons})")
        if any(record.path.is_file() for record in records):
            return
        present = _first_names(source.images)
        holds = f"it holds {', '.join(present)}, ..." if present else "the folder is empty"
        raise AnnotationError(
            f"{source.images}: none of the {len(records)} images of {source.name!r} is there; expected for example "
            f"{records[0].path}; {holds}. Point `images` to the folder that file names in {source.annotations.name} "
            "are relative to"
        )


def _first_names(folder: Path) -> list[str]:
    return sorted(path.name for path in islice(folder.iterdir(), 3)) if folder.is_dir() else []
