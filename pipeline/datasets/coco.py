"""COCO instances: any detection set in COCO's JSON layout, with relations from a pair file where it has one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.datasets.annotations import (
    NO_IMAGE,
    AnnotationError,
    as_four_numbers,
    as_id,
    as_size,
    is_inside,
    list_field,
    read_json,
    shown,
)
from pipeline.datasets.pairs import Pair, add_pairs, read_pairs
from pipeline.datasets.reader import Reader
from pipeline.datasets.record import Box, ImageRecord
from pipeline.stage import Rejected

EXPECTED = "COCO instances: an object with the lists images, annotations and categories"


class CocoReader(Reader):
    """Images in the order of the list `images`; boxes in the order of `annotations`, crowd boxes included."""

    def _records(self) -> Iterator[ImageRecord]:
        path = self.source.annotations
        content = read_json(path, EXPECTED)
        images = list_field(content, "images", path, EXPECTED)
        annotations = list_field(content, "annotations", path, EXPECTED)
        categories = self._categories(list_field(content, "categories", path, EXPECTED))
        boxes, box_rejects = self._boxes(annotations, categories)
        pairs = self._pairs()
        seen: set[int] = set()
        for entry in images:
            record = self._record(entry, seen)
            if record is None:
                continue
            seen.add(record.image_id)
            found, rejects = boxes.pop(record.image_id, []), box_rejects.pop(record.image_id, [])
            relations, more = add_pairs(
                record.image_id, found, pairs.pop(record.image_id, []), frozenset(categories.values())
            )
            yield ImageRecord(
                record.dataset,
                record.split,
                record.image_id,
                record.path,
                record.width,
                record.height,
                tuple(found),
                tuple(relations),
                tuple(rejects + more),
            )
        for image_id in sorted(boxes.keys() | box_rejects.keys()):
            count = len(boxes.get(image_id, [])) + len(box_rejects.get(image_id, []))
            self.rejects.append(Rejected(image_id, "annotations of unknown image", f"{count} annotations"))
        self.rejects += [
            Rejected(image_id, "relations of unknown image", f"{len(pairs[image_id])} relations")
            for image_id in sorted(pairs)
        ]

    def _category(self, name: str) -> str:
        """The category's name as it goes into tables."""
        return name.strip()

    def _relative_path(self, file_name: str) -> str:
        """Where the image lies in the images folder."""
        return file_name

    def _categories(self, entries: list[Any]) -> dict[int, str]:
        path = self.source.annotations
        categories: dict[int, str] = {}
        for entry in entries:
            category_id = as_id(entry.get("id")) if isinstance(entry, dict) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            if category_id is None or not isinstance(name, str) or not name.strip():
                raise AnnotationError(f"{path}: category {shown(entry)} lacks an integer id or a name")
            if category_id in categories:
                raise AnnotationError(f"{path}: category id {category_id} is listed twice")
            categories[category_id] = self._category(name)
        return categories

    def _record(self, entry: Any, seen: set[int]) -> ImageRecord | None:
        image_id = as_id(entry.get("id")) if isinstance(entry, dict) else None
        if image_id is None:
            self.rejects.append(Rejected(NO_IMAGE, "image id not an integer", shown(entry)))
            return None
        file_name = entry.get("file_name")
        if not isinstance(file_name, str) or not is_inside(relative := self._relative_path(file_name)):
            self.rejects.append(Rejected(image_id, "file name not usable", shown(file_name)))
            return None
        if image_id in seen:
            self.rejects.append(Rejected(image_id, "duplicate image id", shown(file_name)))
            return None
        source = self.source
        size = as_size(entry.get("width")), as_size(entry.get("height"))
        return ImageRecord(source.name, source.split, image_id, source.images / relative, *size)

    def _boxes(
        self, annotations: list[Any], categories: Mapping[int, str]
    ) -> tuple[dict[int, list[Box]], dict[int, list[Rejected]]]:
        boxes: dict[int, list[Box]] = defaultdict(list)
        rejects: dict[int, list[Rejected]] = defaultdict(list)
        for entry in annotations:
            image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
            if image_id is None:
                self.rejects.append(Rejected(NO_IMAGE, "annotation without image id", shown(entry)))
                continue
            category_id = as_id(entry.get("category_id"))
            numbers = as_four_numbers(entry.get("bbox"))
            if category_id not in categories or category_id is None:
                value = shown(entry.get("category_id"))
                rejects[image_id].append(Rejected(image_id, "unknown category id", value))
            elif numbers is None:
                rejects[image_id].append(Rejected(image_id, "box malformed", shown(entry.get("bbox"))))
            else:
                crowd = entry.get("iscrowd") in (1, True)
                source_id = as_id(entry.get("id"))
                boxes[image_id].append(
                    Box(categories[category_id], *numbers, crowd, -1 if source_id is None else source_id)
                )
        return boxes, rejects

    def _pairs(self) -> dict[int, list[Pair | Rejected]]:
        if self.source.relations is None:
            return {}
        pairs, rejects = read_pairs(self.source.relations, self._category)
        self.rejects += rejects
        return pairs
