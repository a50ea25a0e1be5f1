"""Reads the scene graphs of GQA (Hudson and Manning 2019): Visual Genome's images with cleaned names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.annotations import as_object
from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.json_stream import stream_fields

EXPECTED = "GQA: an object {image id: {width, height, objects: {id: {name, x, y, w, h, relations: [{name, object}]}}}}"

_TRANSLATED = frozenset({"name", "relations", *"xywh"})


class GqaReader(CocoReader):
    """Yields images in file order. `images` is the folder with files such as 2407890.jpg."""

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yields names as categories, numbered as they occur."""
        categories: dict[Any, int] = {}
        predicates: dict[Any, int] = {}
        for image_id, graph in stream_fields(self.annotation_file, EXPECTED):
            further = {name: each for name, each in as_object(graph).items() if name != "objects"}
            yield "images", {**further, "id": image_id, "file_name": f"{image_id}.jpg"}
            objects = as_object(graph).get("objects")
            for key, item in objects.items() if isinstance(objects, dict) else [(None, objects)]:
                found = as_object(item)
                category, sides = _numbered(categories, found), [found.get(side) for side in "xywh"]
                stated = found.get("relations", [])
                further = {name: each for name, each in found.items() if name not in _TRANSLATED}
                yield (
                    "annotations",
                    {**further, "id": key, "image_id": image_id, "category_id": category, "bbox": sides},
                )
                for each in stated if isinstance(stated, list) else [stated]:
                    relation = as_object(each)
                    ids = {"subject_id": key, "predicate_id": _numbered(predicates, relation)}
                    yield "rel_annotations", {"image_id": image_id, **ids, "object_id": relation.get("object")}
        for name, names in (("categories", categories), ("rel_categories", predicates)):
            yield from ((name, {"id": number, "name": each}) for each, number in names.items())


def _numbered(numbers: dict[Any, int], entry: dict[str, Any]) -> int | None:
    """The number of an entry's name, the next one for a new name; None without a name."""
    name = entry.get("name")
    return numbers.setdefault(name, len(numbers)) if isinstance(name, str) else None
