"""Reads VRD (Lu et al. 2016): relations by file name, with boxes as [ymin, ymax, xmin, xmax]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pipeline.data.datasets.annotations import (
    AnnotationError,
    as_four_numbers,
    as_id,
    as_object,
    read_json,
    readable,
    rows,
    shown,
)
from pipeline.data.datasets.json_stream import stream_fields
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.runtime.stage import Rejected

EXPECTED = 'VRD: an object {"name.jpg": [{predicate, subject: {category, bbox}, object: {category, bbox}}, ...]}'
_NAMES = "a JSON list of names"
_PHOTO = re.compile(r"\d{1,18}(?=[_.])")


class VrdReader(Reader):
    """Yields images in file order, including those without relations. Categories and predicates count from 0.

    An image's id is the number that its file name begins with: the photo's number on Flickr, where the images come
    from. Equal boxes of one category are the same object.
    """

    files: ClassVar = {"annotations": "JSON", "objects": "JSON", "predicates": "JSON"}
    required = ("objects", "predicates")

    def _records(self) -> Iterator[ImageRecord]:
        assert self.source.objects is not None and self.source.predicates is not None  # DataSource requires them
        self.objects, self.predicates = _names(self.source.objects), _names(self.source.predicates)
        seen: set[int] = set()
        for name, relations in stream_fields(self.annotation_file, EXPECTED):
            found = _PHOTO.match(name.rpartition("/")[2])
            accepted = self.accepted(None if found is None else int(found[0]), name, seen)
            if accepted is not None:
                yield self._record(*accepted, relations)

    def _record(self, image_id: int, name: str, entries: Any) -> ImageRecord:
        boxes: dict[Box, int] = {}
        rejects: list[Rejected] = []
        relations = []
        if not isinstance(entries, list):
            rejects.append(Rejected(image_id, "relations malformed", shown(entries)))
            entries = []
        for entry in entries:
            found = as_object(entry)
            predicate_id = as_id(found.get("predicate"))
            if predicate_id is None or not 0 <= predicate_id < len(self.predicates):
                rejects.append(Rejected(image_id, "unknown verb id", shown(entry)))
                continue
            subject, target = self._box(found.get("subject")), self._box(found.get("object"))
            fault = subject if isinstance(subject, str) else target
            if isinstance(fault, str):
                rejects.append(Rejected(image_id, fault, shown(entry)))
                continue
            assert isinstance(subject, Box) and isinstance(target, Box)
            ends = boxes.setdefault(subject, len(boxes)), boxes.setdefault(target, len(boxes))
            relations.append(AnnotatedRelation(ends[0], self.predicates[predicate_id], ends[1]))
        return self.record(image_id, self.place(name), boxes=boxes, relations=relations, rejects=rejects)

    def _box(self, entry: Any) -> Box | str:
        """The box, or the reason to reject it."""
        found = as_object(entry)
        numbers, category = as_four_numbers(found.get("bbox")), as_id(found.get("category"))
        if numbers is None:
            return "relation without box"
        if category is None or not 0 <= category < len(self.objects):
            return "unknown category id"
        y1, y2, x1, x2 = numbers
        return Box.between(self.objects[category], (x1, y1, x2, y2))


def _names(path: Path) -> tuple[str, ...]:
    names: Sequence[Any] = rows(read_json(path, _NAMES), path, _NAMES)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise AnnotationError(f"{path}: holds other entries than names; expected {_NAMES}")
    return tuple(readable(name.strip()) for name in names)
