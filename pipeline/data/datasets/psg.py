"""Reads PSG (Yang et al. 2022, "Panoptic Scene Graph Generation"): relations between the segments of COCO images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.annotations import (
    AnnotationError,
    as_four_numbers,
    as_id,
    as_size,
    readable,
    shown,
)
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, ImageRecord
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
            fields = entry if isinstance(entry, dict) else {}
            image_id = as_id(fields.get("image_id"))
            if image_id is None or (image_id in test) == (self.source.split == "test"):
                accepted = self.accepted(image_id, fields.get("file_name"), seen)
                if accepted is not None:
                    yield self._record(*accepted, fields)

    def _record(self, image_id: int, name: str, entry: dict[str, Any]) -> ImageRecord:
        boxes: list[Box] = []
        rejects: list[Rejected] = []
        places: dict[int, int] = {}
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
        keys = [
            (subject, predicate, target)
            for subject, target, predicate in (
                map(as_id, each) if isinstance(each, list) and len(each) == 3 else [None] * 3 for each in stated
            )
        ]
        relations, lost = self.related(keys, places, dict(enumerate(self.predicates)), image_id)
        once = dict.fromkeys(relations)  # as the authors count relations that an image repeats
        rejects += lost + [Rejected(image_id, "relation duplicate", "")] * (len(relations) - len(once))
        size = as_size(entry.get("width")), as_size(entry.get("height"))
        return self.record(image_id, self.place(name), size, boxes, once, rejects)

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
