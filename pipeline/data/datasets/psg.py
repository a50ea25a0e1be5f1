"""Reads PSG (Yang et al. 2022, "Panoptic Scene Graph Generation"): relations between the segments of COCO images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.annotations import AnnotationError, as_four_numbers, as_id, as_object
from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.json_stream import stream_lists

EXPECTED = (
    "PSG: an object with the lists data [{image_id, file_name, annotations: [{bbox, category_id}], relations: "
    "[[subject, object, predicate]]}], thing_classes, stuff_classes, predicate_classes and test_image_ids"
)
SPLITS = ("train", "test")


class PsgReader(CocoReader):
    """Yields the images of a split. `images` is the folder with COCO's train2017 and val2017.

    `split` is "test", the images in `test_image_ids`, or "train", the others. Boxes are those of segments, of things
    and of stuff, crowds included, as the authors load them. Their masks are not read.
    """

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yields segments as annotations, with their places within the image as ids."""
        path, split = self.annotation_file, self.source.split
        if split not in SPLITS:
            raise AnnotationError(f"split {split!r} is not a split of PSG; set one of {', '.join(SPLITS)}")
        test = {as_id(entry) for _, entry in stream_lists(path, EXPECTED, ("test_image_ids",))}
        names: dict[str, list[Any]] = {"thing_classes": [], "stuff_classes": [], "predicate_classes": []}
        for name, entry in stream_lists(path, EXPECTED, ("data", *names), lambda read: self.report(read / 2)):
            if name != "data":
                names[name].append(entry)
            elif not isinstance(entry, dict):
                yield "images", entry
            elif (as_id(entry.get("image_id")) in test) == (split == "test"):
                yield from _translated(entry)
        # Categories count things, then stuff.
        for number, name in enumerate(names["thing_classes"] + names["stuff_classes"]):
            yield "categories", {"id": number, "name": name, "isthing": int(number < len(names["thing_classes"]))}
        for number, name in enumerate(names["predicate_classes"]):
            yield "rel_categories", {"id": number, "name": name}


def _translated(entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields an image, its boxes and its relations as COCO's layout states them. Boxes have their places as ids."""
    image_id, parts = entry.get("image_id"), ("annotations", "segments_info", "relations")
    yield "images", {"id": image_id} | {name: each for name, each in entry.items() if name not in ("image_id", *parts)}
    annotations, segments, relations = (found if isinstance(found := entry.get(name), list) else [] for name in parts)
    for place, box in enumerate(annotations):
        found = as_object(box)
        corners = as_four_numbers(found.get("bbox"))
        sides = corners and [*corners[:2], corners[2] - corners[0], corners[3] - corners[1]]
        segment = segments[place] if len(segments) == len(annotations) else None
        area = {"area": segment.get("area"), "segments_info": segment} if isinstance(segment, dict) else {}
        category = found.get("category_id")
        yield "annotations", {"id": place, "image_id": image_id, "category_id": category, "bbox": sides, **area}
    for relation in relations:
        ids = relation if isinstance(relation, list) and len(relation) == 3 else [None] * 3
        named = dict(zip(("subject_id", "object_id", "predicate_id"), ids, strict=True))
        yield "rel_annotations", {"image_id": image_id, **named}
