"""Reads the scene graphs of GQA (Hudson and Manning 2019): Visual Genome's images with cleaned names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.annotations import as_four_numbers, as_id, as_size, readable, shown
from pipeline.data.datasets.json_stream import stream_fields
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, ImageRecord
from pipeline.runtime.stage import Rejected

EXPECTED = "GQA: an object {image id: {width, height, objects: {id: {name, x, y, w, h, relations: [{name, object}]}}}}"


class GqaReader(Reader):
    """Yields images in file order. `images` is the folder with files such as 2407890.jpg."""

    def _records(self) -> Iterator[ImageRecord]:
        seen: set[int] = set()
        for name, graph in stream_fields(self.annotation_file, EXPECTED):
            accepted = self.accepted(as_id(name), f"{as_id(name)}.jpg", seen)
            if accepted is not None:
                yield self._record(*accepted, graph if isinstance(graph, dict) else {})

    def _record(self, image_id: int, name: str, graph: dict[str, Any]) -> ImageRecord:
        boxes: list[Box] = []
        rejects: list[Rejected] = []
        places: dict[str, int] = {}
        objects = graph.get("objects")
        if not isinstance(objects, dict):
            rejects.append(Rejected(image_id, "objects malformed", shown(graph)))
            objects = {}
        for key, item in objects.items():
            sides = as_four_numbers([item.get(side) for side in "xywh"]) if isinstance(item, dict) else None
            if sides is None or not isinstance(item.get("name"), str):
                rejects.append(Rejected(image_id, "box malformed", shown(item)))
            else:
                source_id = as_id(key)
                places[key] = len(boxes)
                boxes.append(Box(readable(item["name"]), *sides, False, -1 if source_id is None else source_id))
        relations = []
        for key in places:
            stated = objects[key].get("relations", [])
            for each in stated if isinstance(stated, list) else [stated]:
                predicate, target = (each.get("name"), each.get("object")) if isinstance(each, dict) else (None, None)
                if not isinstance(predicate, str):
                    rejects.append(Rejected(image_id, "relation malformed", shown(each)))
                elif not isinstance(target, str) or target not in places:
                    rejects.append(Rejected(image_id, "relation without box", shown(each)))
                else:
                    relations.append(AnnotatedRelation(places[key], readable(predicate), places[target]))
        size = as_size(graph.get("width")), as_size(graph.get("height"))
        return self.record(image_id, self.place(name), size, boxes, relations, rejects)
