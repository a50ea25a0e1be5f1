"""Reads the scene graphs of GQA (Hudson and Manning 2019): Visual Genome's images with cleaned names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.datasets.annotations import NO_IMAGE, as_four_numbers, as_id, as_size, readable, shown
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
            image_id = as_id(name)
            if image_id is None:
                self.rejects.append(Rejected(NO_IMAGE, "image id not an integer", shown(name)))
            elif image_id in seen:
                self.rejects.append(Rejected(image_id, "duplicate image id", shown(name)))
            else:
                seen.add(image_id)
                yield self._record(image_id, graph if isinstance(graph, dict) else {})

    def _record(self, image_id: int, graph: dict[str, Any]) -> ImageRecord:
        boxes: list[Box] = []
        rejects: list[Rejected] = []
        places: dict[str, int] = {}
        relations = []
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
        for key, item in objects.items():
            stated = item.get("relations", []) if key in places else []
            for relation in stated if isinstance(stated, list) else [stated]:
                name, target = (relation.get("name"), relation.get("object")) if isinstance(relation, dict) else (0, 0)
                if not isinstance(name, str):
                    rejects.append(Rejected(image_id, "relation malformed", shown(relation)))
                elif not isinstance(target, str) or target not in places:
                    rejects.append(Rejected(image_id, "relation without box", shown(relation)))
                else:
                    relations.append(AnnotatedRelation(places[key], readable(name), places[target]))
        size = as_size(graph.get("width")), as_size(graph.get("height"))
        return self.record(image_id, self.place(f"{image_id}.jpg"), size, boxes, relations, rejects)
