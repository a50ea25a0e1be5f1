"""Reads HICO-DET in the layout of RLIPv2's authors: boxes with COCO category ids, pairs as indices into the boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pipeline.data.datasets.annotations import (
    AnnotationError,
    as_four_numbers,
    as_id,
    as_object,
    as_size,
    shown,
)
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.names import COCO_CATEGORIES, read_names
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.data.datasets.source import DataSource
from pipeline.runtime.stage import Rejected

EXPECTED = "HICO-DET: a list of {file_name, img_id, annotations, hoi_annotation}"


class HicoDetReader(Reader):
    """Yields images in file order. Verbs are ids into the verb list, including "no interaction"."""

    files: ClassVar = {"annotations": "JSON", "verbs": "names", "objects": "names"}
    required = ("verbs",)

    def __init__(self, source: DataSource, scratch: Path | None = None) -> None:
        super().__init__(source, scratch)
        assert source.verbs is not None  # DataSource requires it for this format
        self._verbs = read_names(source.verbs)
        self._objects = COCO_CATEGORIES if source.objects is None else read_names(source.objects)
        self.objects = tuple(name for _, name in sorted(self._objects.items()))
        self.predicates = tuple(name for _, name in sorted(self._verbs.items()))
        coco = set(COCO_CATEGORIES.values())
        self._numbered_anew = set(self.objects) == coco and self._objects != COCO_CATEGORIES
        """Whether the list has COCO's names by other ids than COCO's, as hico_list_obj.txt does"""

    def _records(self) -> Iterator[ImageRecord]:
        seen: set[int] = set()
        for entry in map(as_object, stream_rows(self.annotation_file, EXPECTED)):
            accepted = self.accepted(as_id(entry.get("img_id")), entry.get("file_name"), seen)
            if accepted is not None:
                yield self._record(*accepted, entry)

    def _record(self, image_id: int, file_name: str, entry: dict[str, Any]) -> ImageRecord:
        rejects: list[Rejected] = []
        boxes: list[Box] = []
        places: list[int | None] = []
        for item in _list(entry, "annotations", image_id, rejects):
            box = self._box(image_id, item, len(places), rejects)
            places.append(None if box is None else len(boxes))
            boxes += [] if box is None else [box]
        relations = []
        for item in _list(entry, "hoi_annotation", image_id, rejects):
            relation = self._relation(image_id, item, places, rejects)
            if relation is not None:
                self._check_subject(boxes[relation.subject])
                relations.append(relation)
        size = as_size(entry.get("width")), as_size(entry.get("height"))
        return self.record(image_id, self.place(file_name), size, boxes, relations, rejects)

    def _box(self, image_id: int, item: Any, position: int, rejects: list[Rejected]) -> Box | None:
        found = as_object(item)
        corners, category_id = as_four_numbers(found.get("bbox")), as_id(found.get("category_id"))
        if corners is None:
            rejects.append(Rejected(image_id, "box malformed", shown(item)))
        elif category_id is None or category_id not in self._objects:
            rejects.append(Rejected(image_id, "unknown category id", shown(found.get("category_id"))))
        else:
            return Box.between(self._objects[category_id], corners, position)
        return None

    def _relation(
        self, image_id: int, item: Any, places: list[int | None], rejects: list[Rejected]
    ) -> AnnotatedRelation | None:
        found = as_object(item)
        verb = as_id(found.get("category_id"))
        if verb is None or verb not in self._verbs:
            rejects.append(Rejected(image_id, "unknown verb id", shown(item)))
            return None
        ends = as_id(found.get("subject_id")), as_id(found.get("object_id"))
        subject, target = (places[end] if end is not None and 0 <= end < len(places) else None for end in ends)
        if subject is None or target is None:
            rejects.append(Rejected(image_id, "relation without box", shown(item)))
            return None
        return AnnotatedRelation(subject, self._verbs[verb], target)

    def _check_subject(self, box: Box) -> None:
        """Raises `AnnotationError` where a list of COCO's names by other ids turns persons into something else."""
        if self._numbered_anew and box.category != "person":
            raise AnnotationError(
                f"{self.source.objects}: names the subject of an interaction {box.category!r}, so the annotations count COCO's "
                "ids; leave `objects` out"
            )


def _list(entry: dict[str, Any], name: str, image_id: int, rejects: list[Rejected]) -> list[Any]:
    found = entry.get(name)
    if isinstance(found, list):
        return found
    rejects.append(Rejected(image_id, f"{name} malformed", shown(found)))
    return []
