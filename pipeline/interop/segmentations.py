"""Outlines of boxes, read again from the annotation file that a run was made of: the store's tables hold boxes alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from pipeline.data.datasets.annotations import AnnotationError, as_id
from pipeline.data.datasets.coco import EXPECTED
from pipeline.data.datasets.json_stream import stream_lists
from storage.runs import Run

_FORMATS = ("coco", "objects365")


class Segmentations:
    """Annotation id → its `segmentation`, as the file has it. Texts wait on disk: COCO's take a gigabyte in memory."""

    def __init__(self, path: Path | None) -> None:
        """Without a file nothing is known, and of one that changed only what stands before its first error."""
        self.is_damaged = False
        """Whether the file could not be read to its end."""
        self._texts = TemporaryFile()  # noqa: SIM115 - `close` closes it
        places: list[tuple[int, int, int]] = []
        for number, outline in self._outlines(path) if path is not None and path.is_file() else ():
            text = json.dumps(outline).encode()
            places.append((number, self._texts.tell(), len(text)))
            self._texts.write(text)
        self._places = np.array(sorted(places), np.int64).reshape(-1, 3)

    def find(self, annotation_id: int) -> Any:
        """The segmentation of an annotation; None if unknown."""
        row = int(np.searchsorted(self._places[:, 0], annotation_id))
        if row == len(self._places) or self._places[row, 0] != annotation_id:
            return None
        self._texts.seek(int(self._places[row, 1]))
        return json.loads(self._texts.read(int(self._places[row, 2])))

    def close(self) -> None:
        """Remove the texts from disk."""
        self._texts.close()

    def _outlines(self, path: Path) -> Iterator[tuple[int, Any]]:
        try:
            for _, entry in stream_lists(path, EXPECTED, ("annotations",)):
                if (
                    isinstance(entry, dict)
                    and entry.get("segmentation")
                    and (number := as_id(entry.get("id"))) is not None
                ):
                    yield number, entry["segmentation"]
        except AnnotationError:
            self.is_damaged = True


def annotation_file(run: Run, dataset: str) -> Path | None:
    """The annotation file that a data set of a run was read from, if the run's recipe names one in COCO's layout."""
    data = run.read_document("recipe").get("data", {})
    for source in data.get("sources", ()):
        if source.get("name") == dataset and source.get("format") in _FORMATS:
            return Path(data.get("root", "."), source["annotations"])
    return None
