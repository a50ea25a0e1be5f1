"""Reads HICO-DET and V-COCO in the layout of fredzzhang/hicodet and fredzzhang/vcoco: pairs of boxes by image.

HICO-DET (`instances_train2015.json`): lists `filenames`, `annotation`, `objects`, `verbs` and `size`; V-COCO
(`instances_vcoco_train.json`): lists `images`, `annotations`, `objects` and `classes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.data.datasets.annotations import AnnotationError, as_id, as_object, as_size, read_json, readable
from pipeline.data.datasets.pairs import vcoco_predicate
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, Draft, ImageRecord, name_of, numbers_of

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
            raise AnnotationError(f"{path}: is not a JSON object; expected {fields.expected}")
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
        draft = Draft(image_id)
        columns: list[Any] = [
            as_object(entry).get(field) for field in ("boxes_h", "boxes_o", fields.object, fields.predicate)
        ]
        if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
            draft.reject("relations malformed", entry)
            columns = [[], [], [], []]
        names, predicates = dict(enumerate(categories)), dict(enumerate(self.predicates))
        for pair in zip(*columns, strict=True):
            with draft.rejecting(pair):
                person, target = (numbers_of(end, "relation without box") for end in pair[:2])
                category = name_of(names, pair[2], "unknown category id")
                predicate = name_of(predicates, pair[3], "unknown verb id")
                draft.relate_boxes(Box.between(PERSON, person), predicate, Box.between(category, target))
        return self.drafted(draft, self.place(name), (as_size(width), as_size(height)))

    def _names(self, content: dict[str, Any], field: str, fields: _Fields) -> list[str]:
        names = self._list(content, field, fields)
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise AnnotationError(
                f"{self.annotation_file}: {field!r} is not a list of names; expected {fields.expected}"
            )
        if fields is _VCOCO and field == fields.predicates:
            return [readable(name.strip()) for name in names]
        return [readable(name.strip().replace("_", " ")) for name in names]

    def _list(self, content: dict[str, Any], field: str, fields: _Fields) -> list[Any]:
        found = content.get(field)
        if not isinstance(found, list):
            raise AnnotationError(f"{self.annotation_file}: has no list {field!r}; expected {fields.expected}")
        return found


def _number_of(name: Any) -> int | None:
    found = _NUMBER.search(name) if isinstance(name, str) else None
    return None if found is None else int(found[1])
