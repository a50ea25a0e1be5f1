"""Reads HICO-DET and V-COCO in the layout of fredzzhang/hicodet and fredzzhang/vcoco: pairs of boxes by image.

HICO-DET (`instances_train2015.json`): lists `filenames`, `annotation`, `objects`, `verbs` and `size`; V-COCO
(`instances_vcoco_train.json`): lists `images`, `annotations`, `objects` and `classes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.data.datasets.annotations import (
    AnnotationError,
    as_four_numbers,
    as_id,
    as_object,
    as_size,
    read_json,
    readable,
    shown,
)
from pipeline.data.datasets.pairs import vcoco_predicate
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.runtime.stage import Rejected

PERSON = "person"
_NUMBER = re.compile(r"(\d{1,18})\.[A-Za-z]\w*$")


@dataclass(frozen=True)
class _Fields:
    """How a layout names its parts."""

    annotations: str
    objects: str
    predicates: str
    """List of predicate names."""
    object: str
    """Of an image: object ids by pair."""
    predicate: str
    expected: str


_HICO = _Fields(
    "annotation", "objects", "verbs", "object", "verb",
    "HICO-DET: an object with the lists filenames, annotation [{boxes_h, boxes_o, object, verb}, ...], objects and "
    "verbs",
)  # fmt: skip
_VCOCO = _Fields(
    "annotations", "objects", "classes", "objects", "actions",
    "V-COCO: an object with the lists images, annotations [{boxes_h, boxes_o, objects, actions, file_name}, ...], "
    "objects and classes",
)  # fmt: skip


class InstancesReader(Reader):
    """Yields images in file order. An image's id is the number at the end of its file name, or V-COCO's COCO id.

    Pairs state their boxes by themselves: equal boxes of one name are the same object. Names have spaces for
    underscores, except V-COCO's actions, which `read` converts to predicates.
    """

    def _records(self) -> Iterator[ImageRecord]:
        path = self.annotation_file
        fields = _VCOCO if self.source.format == "vcoco_instances" else _HICO
        content = read_json(path, fields.expected)
        if not isinstance(content, dict):
            raise AnnotationError(f"{path}: holds no JSON object; expected {fields.expected}")
        entries = self._list(content, fields.annotations, fields)
        categories = self._names(content, fields.objects, fields)
        self.objects = tuple(name for name in categories if name != "background")
        self.predicates = tuple(self._names(content, fields.predicates, fields))
        names, ids, sizes = self._images(content, entries, fields)
        seen: set[int] = set()
        for position, entry in enumerate(entries):
            name = names[position]
            image_id = as_id(ids[position]) if ids is not None else _number_of(name)
            accepted = self.accepted(image_id, name, seen)
            if accepted is not None:
                size = sizes[position] if sizes is not None else None
                yield self._record(*accepted, size, entry, fields, categories)

    def _completed(self, record: ImageRecord) -> ImageRecord:
        if self.source.format != "vcoco_instances":
            return record
        relations = [r._replace(predicate=vcoco_predicate(r.predicate)) for r in record.relations]
        return replace(record, relations=tuple(relations))

    def _images(
        self, content: dict[str, Any], entries: list[Any], fields: _Fields
    ) -> tuple[Sequence[Any], Sequence[Any] | None, Sequence[Any] | None]:
        """File names, ids (None: those of the names) and sizes (None: unknown), as long as `entries`."""
        ids = sizes = None
        if fields is _VCOCO:
            names: Sequence[Any] = [as_object(entry).get("file_name") for entry in entries]
            ids = self._list(content, "images", fields)
        else:
            names = self._list(content, "filenames", fields)
            sizes = self._list(content, "size", fields) if "size" in content else None
        for listed in (names, ids, sizes):
            if listed is not None and len(listed) != len(entries):
                raise AnnotationError(
                    f"{self.annotation_file}: lists {len(listed)} images for {len(entries)} annotations; "
                    f"expected {fields.expected}, all equally long"
                )
        return names, ids, sizes

    def _record(
        self, image_id: int, name: str, size: Any, entry: Any, fields: _Fields, categories: Sequence[str]
    ) -> ImageRecord:
        width, height = size if isinstance(size, list) and len(size) == 2 else (None, None)
        boxes: dict[Box, int] = {}
        rejects: list[Rejected] = []
        relations = []
        columns: list[Any] = [
            as_object(entry).get(field) for field in ("boxes_h", "boxes_o", fields.object, fields.predicate)
        ]
        if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
            rejects.append(Rejected(image_id, "relations malformed", shown(entry)))
            columns = [[], [], [], []]
        for pair in zip(*columns, strict=True):
            parsed = self._pair(categories, *pair)
            if isinstance(parsed, str):
                rejects.append(Rejected(image_id, parsed, shown(pair)))
                continue
            subject, predicate, target = parsed
            ends = boxes.setdefault(subject, len(boxes)), boxes.setdefault(target, len(boxes))
            relations.append(AnnotatedRelation(ends[0], predicate, ends[1]))
        return self.record(image_id, self.place(name), (as_size(width), as_size(height)), boxes, relations, rejects)

    def _pair(
        self, categories: Sequence[str], person: Any, target: Any, object_id: Any, predicate_id: Any
    ) -> tuple[Box, str, Box] | str:
        """The two boxes and the predicate, or the reason to reject the pair."""
        ends = as_four_numbers(person), as_four_numbers(target)
        category = _at(categories, as_id(object_id))
        predicate = _at(self.predicates, as_id(predicate_id))
        if ends[0] is None or ends[1] is None:
            return "relation without box"
        if category is None:
            return "unknown category id"
        if predicate is None:
            return "unknown verb id"
        return Box.between(PERSON, ends[0]), predicate, Box.between(category, ends[1])

    def _names(self, content: dict[str, Any], field: str, fields: _Fields) -> list[str]:
        names = self._list(content, field, fields)
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise AnnotationError(f"{self.annotation_file}: {field!r} is no list of names; expected {fields.expected}")
        if fields is _VCOCO and field == fields.predicates:
            return [readable(name.strip()) for name in names]
        return [readable(name.strip().replace("_", " ")) for name in names]

    def _list(self, content: dict[str, Any], field: str, fields: _Fields) -> list[Any]:
        found = content.get(field)
        if not isinstance(found, list):
            raise AnnotationError(f"{self.annotation_file}: has no list {field!r}; expected {fields.expected}")
        return found


def _at(names: Sequence[str], position: int | None) -> str | None:
    return names[position] if position is not None and 0 <= position < len(names) else None


def _number_of(name: Any) -> int | None:
    found = _NUMBER.search(name) if isinstance(name, str) else None
    return None if found is None else int(found[1])
