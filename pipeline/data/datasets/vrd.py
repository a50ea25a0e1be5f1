"""Reads VRD (Lu et al. 2016): relations by file name, with boxes as [ymin, ymax, xmin, xmax]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pipeline.data.datasets.annotations import AnnotationError, as_object, read_json, readable, rows
from pipeline.data.datasets.json_stream import stream_fields
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, Draft, ImageRecord, name_of, numbers_of

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
        self.objects, self.predicates = (_names(self.required_file(name)) for name in self.required)
        objects, predicates = dict(enumerate(self.objects)), dict(enumerate(self.predicates))
        seen: set[int] = set()
        for name, relations in stream_fields(self.annotation_file, EXPECTED):
            found = _PHOTO.match(name.rpartition("/")[2])
            accepted = self.accepted(None if found is None else int(found[0]), name, seen)
            if accepted is not None:
                draft = Draft(accepted[0])
                for entry in draft.listed({"relations": relations}, "relations"):
                    with draft.rejecting(entry):
                        stated = as_object(entry)
                        predicate = name_of(predicates, stated.get("predicate"), "unknown verb id")
                        subject, target = (_box(stated.get(end), objects) for end in ("subject", "object"))
                        draft.relate_boxes(subject, predicate, target)
                yield self.drafted(draft, self.place(name))


def _box(entry: Any, objects: Mapping[int, str]) -> Box:
    """The box of an end. Raises `Unusable`."""
    found = as_object(entry)
    y1, y2, x1, x2 = numbers_of(found.get("bbox"), "relation without box")
    return Box.between(name_of(objects, found.get("category"), "unknown category id"), (x1, y1, x2, y2))


def _names(path: Path) -> tuple[str, ...]:
    names: Sequence[Any] = rows(read_json(path, _NAMES), path, _NAMES)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise AnnotationError(f"{path}: contains entries that are not names; expected {_NAMES}")
    return tuple(readable(name.strip()) for name in names)
