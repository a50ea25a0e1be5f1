"""Reads PSG (Yang et al. 2022, "Panoptic Scene Graph Generation"): relations between the segments of COCO images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.annotations import (
    NO_IMAGE,
    AnnotationError,
    as_four_numbers,
    as_id,
    as_size,
    is_inside,
    readable,
    shown,
)
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.runtime.stage import Rejected

EXPECTED = (
    "PSG: an object with the lists data [{image_id, file_name, annotations: [{bbox, category_id}], relations: [[subject, "
    "object, predicate]]}], thing_classes, stuff_classes, predicate_classes and test_image_ids"
)
SPLITS = ("train", "test")


class PsgReader(Reader):
    """Yields the images of a split in file order. `images` is the folder with COCO's train2017 and val2017.

    `split` is "test", the images in `test_image_ids`, or "train", the others. Boxes are those of segments, of things
    and of stuff, crowds included, as the authors load them. Their masks are not read.
    """

    def _records(self) -> Iterator[ImageRecord]:
        if self.source.split not in SPLITS:
            raise AnnotationError(f"split {self.source.split!r} is not a split of PSG; set one of {', '.join(SPLITS)}")
        lists: dict[str, list[Any]] = {
            name: [] for name in ("thing_classes", "stuff_classes", "predicate_classes", "test_image_ids")
        }
        for name, entry in stream_lists(self.annotation_file, EXPECTED, lists):
            lists[name].append(entry)
        test = {as_id(entry) for entry in lists.pop("test_image_ids")}
        if not all(isinstance(name, str) for names in lists.values() for name in names):
            raise AnnotationError(f"{self.annotation_file}: lists other things than names; expected {EXPECTED}")
        self.objects = tuple(readable(name) for name in lists["thing_classes"] + lists["stuff_classes"])
        self.predicates = tuple(readable(name) for name in lists["predicate_classes"])
        seen: set[int] = set()
        for _, entry in stream_lists(self.annotation_file, EXPECTED, ("data",)):
            image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
            if image_id is None:
                self.rejects.append(Rejected(NO_IMAGE, "image id not an integer", shown(entry)))
            elif (image_id in test) != (self.source.split == "test"):
                continue
            elif image_id in seen:
                self.rejects.append(Rejected(image_id, "duplicate image id", shown(entry.get("file_name"))))
            elif not isinstance(name := entry.get("file_name"), str) or not is_inside(name):
                self.rejects.append(Rejected(image_id, "file name not usable", shown(name)))
            else:
                seen.add(image_id)
                yield self._record(image_id, name, entry)

    def _record(self, image_id: int, name: str, entry: dict[str, Any]) -> ImageRecord:
        boxes: list[Box] = []
        rejects: list[Rejected] = []
        places: dict[int, int] = {}
        relations: list[AnnotatedRelation] = []
        annotations, stated = (
            found if isinstance(found := entry.get(field), list) else [] for field in ("annotations", "relations")
        )
        for number, annotation in enumerate(annotations):
            box = self._box(annotation)
            if isinstance(box, str):
                rejects.append(Rejected(image_id, box, shown(annotation)))
            else:
                places[number] = len(boxes)
                boxes.append(box)
        for relation in stated:
            subject, target, predicate = (
                map(as_id, relation) if isinstance(relation, list) and len(relation) == 3 else (None, None, None)
            )
            if predicate is None or not 0 <= predicate < len(self.predicates):
                rejects.append(Rejected(image_id, "unknown verb id", shown(relation)))
            elif subject not in places or target not in places:
                rejects.append(Rejected(image_id, "relation without box", shown(relation)))
            else:
                found = AnnotatedRelation(places[subject], self.predicates[predicate], places[target])
                if found in relations:
                    rejects.append(Rejected(image_id, "relation duplicate", shown(relation)))
                else:
                    relations.append(found)
        size = as_size(entry.get("width")), as_size(entry.get("height"))
        return self.record(image_id, self.place(name), size, boxes, relations, rejects)

    def _box(self, entry: Any) -> Box | str:
        """The box, or the reason to reject it. Categories count things, then stuff, from 0."""
        numbers = as_four_numbers(entry.get("bbox")) if isinstance(entry, dict) else None
        if numbers is None:
            return "box malformed"
        category = as_id(entry.get("category_id"))
        if category is None or not 0 <= category < len(self.objects):
            return "unknown category id"
        x1, y1, x2, y2 = numbers
        return Box(self.objects[category], x1, y1, x2 - x1, y2 - y1)
