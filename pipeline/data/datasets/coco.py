"""Reads detection datasets in COCO's instances JSON, with relations from a pair file if there is one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import IO, Any, ClassVar

from pipeline.data.datasets.annotations import (
    NO_IMAGE,
    as_four_numbers,
    as_id,
    as_size,
    is_inside,
    readable,
    shown,
)
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.datasets.pairs import AnnotatedPair, add_pairs, read_pairs
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, ImageRecord
from pipeline.data.datasets.spill import Spill
from pipeline.runtime.stage import Rejected

EXPECTED = "COCO instances: an object with the lists images, annotations and categories"
_KEPT = ("category_id", "bbox", "id", "iscrowd", "isfake", "isreflected")
"""What a reader needs of an annotation. The last two are Objects365's."""


class CocoReader(Reader):
    """Yields images in the order of the list `images`, with boxes in the order of `annotations`, including crowd boxes.

    The file is read once, with its lists in any order. Boxes are spilled to disk until their image's turn.
    """

    files: ClassVar = {"annotations": "JSON", "relations": "JSON"}

    def _records(self) -> Iterator[ImageRecord]:
        with (
            closing(Spill(self.scratch)) as boxes,
            tempfile.TemporaryFile("w+", dir=self.scratch, encoding="ascii") as images,
        ):
            categories = self._spill(boxes, images)
            pairs = self._pairs()
            yield from self._joined(images, boxes, categories, pairs)

    def _spill(self, boxes: Spill, images: IO[str]) -> dict[int, str]:
        """Spills images and annotations to disk. Returns the categories, which may come last in the file."""
        categories: list[Any] = []
        lists = ("images", "annotations", "categories")
        for name, entry in stream_lists(self.annotation_file, EXPECTED, lists, lambda read: self.report(read / 2)):
            if name == "annotations":
                self._spill_box(boxes, entry)
            elif name == "images":
                images.write(json.dumps(entry) + "\n")
            else:
                categories.append(entry)
        images.seek(0)
        return self._categories(categories)

    def _joined(
        self,
        images: IO[str],
        boxes: Spill,
        categories: dict[int, str],
        pairs: dict[int, list[AnnotatedPair | Rejected]],
    ) -> Iterator[ImageRecord]:
        names = frozenset(categories.values())
        self.objects = tuple(dict.fromkeys(name for _, name in sorted(categories.items())))
        seen: set[int] = set()
        size = max(1, os.fstat(images.fileno()).st_size)
        done = 0
        for number, line in enumerate(images):
            done += len(line)
            if number % 1000 == 0:
                self.report(0.5 + done / size / 2)
            record = self._record(json.loads(line), seen)
            if record is None:
                continue
            seen.add(record.image_id)
            own, rejects = self._boxes(record.image_id, boxes, categories)
            relations, more = add_pairs(record.image_id, own, pairs.pop(record.image_id, []), names)
            yield replace(record, boxes=tuple(own), relations=tuple(relations), rejects=tuple(rejects + more))
        self.report(1.0)
        self.rejects += [
            Rejected(image_id, "annotations of unknown image", f"{count} annotations")
            for image_id, count in boxes.counts()
            if image_id not in seen
        ]
        self.rejects += [
            Rejected(image_id, "relations of unknown image", f"{len(pairs[image_id])} relations")
            for image_id in sorted(pairs)
        ]

    def _category(self, name: str) -> str:
        """The category name as stored in tables."""
        return name.strip()

    def _relative_path(self, file_name: str) -> str:
        """The path of the image relative to the images folder."""
        return file_name

    def _categories(self, entries: list[Any]) -> dict[int, str]:
        """The categories that boxes can name. Unusable ones cost their boxes, not the dataset."""
        categories: dict[int, str] = {}
        unusable: set[int] = set()
        for entry in entries:
            category_id = as_id(entry.get("id")) if isinstance(entry, dict) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            if category_id is None or not isinstance(name, str) or not name.strip():
                self.rejects.append(Rejected(NO_IMAGE, "category without an integer id or a name", shown(entry)))
                continue
            name = self._category(readable(name))
            if categories.setdefault(category_id, name) != name:
                self.rejects.append(Rejected(NO_IMAGE, "category id of several names", shown(entry)))
                unusable.add(category_id)
        return {category_id: name for category_id, name in categories.items() if category_id not in unusable}

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
        size = as_size(entry.get("width")), as_size(entry.get("height"))
        return self.record(image_id, self.place(relative), size)

    def _spill_box(self, boxes: Spill, entry: Any) -> None:
        image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id is None:
            self.rejects.append(Rejected(NO_IMAGE, "annotation without image id", shown(entry)))
            return
        boxes.add(image_id, [entry.get(name) for name in _KEPT])

    def _boxes(self, image_id: int, spilled: Spill, categories: Mapping[int, str]) -> tuple[list[Box], list[Rejected]]:
        boxes: list[Box] = []
        rejects: list[Rejected] = []
        for category, sides, source, is_crowd, is_fake, is_reflected in spilled.of(image_id):
            category_id, numbers, source_id = as_id(category), as_four_numbers(sides), as_id(source)
            if category_id is None or category_id not in categories:
                unknown = shown(category) if category_id is None else str(category_id)
                rejects.append(Rejected(image_id, "unknown category id", unknown))
            elif numbers is None:
                rejects.append(Rejected(image_id, "box malformed", shown(sides)))
            else:
                box = Box(categories[category_id], *numbers, is_crowd == 1, -1 if source_id is None else source_id)
                if unwanted := self._unwanted(is_fake == 1, is_reflected == 1):
                    rejects.append(Rejected(image_id, unwanted, box.written()))
                else:
                    boxes.append(box)
        return boxes, rejects

    def _unwanted(self, is_fake: bool, is_reflected: bool) -> str:
        """The reason to reject a box; "" to keep it."""
        return ""

    def _pairs(self) -> dict[int, list[AnnotatedPair | Rejected]]:
        if self.source.relations is None:
            return {}
        pairs, rejects = read_pairs(self.source.relations, self._category)
        self.rejects += rejects
        return pairs
