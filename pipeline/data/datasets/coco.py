"""Reads detection datasets in COCO's instances JSON, with relations from a pair file if there is one.

The file itself may hold relations, too, in the lists `rel_annotations` ({image_id, subject_id, predicate_id,
object_id}, which name annotations) and `rel_categories`, as SGG-Benchmark and SGG-Annotate write them.
"""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import IO, Any, ClassVar

import numpy as np

from pipeline.data.datasets.annotations import NO_IMAGE, as_four_numbers, as_id, as_object, as_size, readable, shown
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.datasets.pairs import add_pairs, known_names, require_images, spill_pairs
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, Draft, ImageRecord, name_of
from pipeline.data.datasets.spill import Spill
from pipeline.runtime.stage import Rejected

EXPECTED = "COCO instances: an object with the lists images, annotations and categories"
_KEPT = ("category_id", "bbox", "id", "iscrowd", "isfake", "isreflected")
"""The fields of an annotation that readers use. The last two are Objects365's."""
_ENDS = ("subject_id", "predicate_id", "object_id")


class CocoReader(Reader):
    """Yields images in the order of the list `images`, with boxes in the order of `annotations`, including crowd boxes.

    The file is read once, with its lists in any order. Boxes are spilled to disk until their image's turn.
    """

    files: ClassVar = {"annotations": "JSON", "relations": "JSON"}

    def _records(self) -> Iterator[ImageRecord]:
        with (
            closing(Spill(self.scratch)) as boxes,
            closing(Spill(self.scratch)) as relations,
            closing(Spill(self.scratch)) as pairs,
            tempfile.TemporaryFile("w+", dir=self.scratch, encoding="ascii") as images,
        ):
            if self.source.relations is not None:
                self.rejects += spill_pairs(self.source.relations, pairs)
            categories, predicates, shared = self._spill(boxes, relations, images)
            yield from self._joined(images, boxes, relations, pairs, categories, predicates, shared)

    def _spill(
        self, boxes: Spill, relations: Spill, images: IO[str]
    ) -> tuple[dict[int, str], dict[int, str], set[int]]:
        """Spills images, annotations and relations to disk.

        Returns the names of both, which may come last, and the ids that several files share.
        """
        listed = array("q")
        names: dict[str, list[Any]] = {"categories": [], "rel_categories": []}
        spilled = {
            "annotations": (boxes, _KEPT, "annotation without image id"),
            "rel_annotations": (relations, _ENDS, "relations of unknown image"),
        }
        for name, entry in self.entries():
            if name == "images":
                images.write(json.dumps(entry) + "\n")
                values = as_object(entry)
                if (image_id := as_id(values.get("id"))) is not None:
                    # Of names, memory holds only hashes: there may be millions.
                    listed.extend((image_id, hash(str(values.get("file_name")))))
            elif name in names:
                names[name].append(entry)
            elif name in spilled:
                (spill, fields, fault), values = spilled[name], as_object(entry)
                if (image_id := as_id(values.get("image_id"))) is None:
                    self.rejects.append(Rejected(NO_IMAGE, fault, shown(entry)))
                else:
                    spill.add(image_id, [values.get(field) for field in fields])
        images.seek(0)
        return self._categories(names["categories"]), self._categories(names["rel_categories"]), _of_several(listed)

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yields the entries of COCO's lists with the name of their list, and `info`.

        Readers of other layouts translate theirs, with all the fields that an entry has.
        """
        lists, optional = ("images", "annotations", "categories"), ("rel_annotations", "rel_categories")
        report = lambda read: self.report(read / 2)  # noqa: E731
        return stream_lists(self.annotation_file, EXPECTED, lists, report, optional, ("info", "licenses"))

    def _joined(
        self,
        images: IO[str],
        boxes: Spill,
        relations: Spill,
        pairs: Spill,
        categories: dict[int, str],
        predicates: dict[int, str],
        shared: set[int],
    ) -> Iterator[ImageRecord]:
        names = known_names(categories.values())
        self.predicates = tuple(dict.fromkeys(name for _, name in sorted(predicates.items())))
        self.objects = tuple(dict.fromkeys(name for _, name in sorted(categories.items())))
        seen: set[int] = set()
        size = max(1, os.fstat(images.fileno()).st_size)
        done = 0
        for number, line in enumerate(images):
            done += len(line)
            if number % 1000 == 0:
                self.report(0.5 + done / size / 2)
            entry = json.loads(line)
            image_id = as_id(as_object(entry).get("id"))
            if image_id is not None and image_id in shared:
                self.rejects.append(Rejected(image_id, "image id of several files", shown(entry.get("file_name"))))
                continue
            record = self._record(entry, seen)
            if record is None:
                continue
            draft = Draft(record.image_id)
            self._add_boxes(draft, boxes, categories)
            for each in relations.of(record.image_id):
                keys = subject, predicate, target = tuple(map(as_id, each))
                with draft.rejecting(keys):
                    draft.relate(subject, name_of(predicates, predicate, "unknown verb id"), target)
            once = [*dict.fromkeys(draft.relations)]
            draft.rejects += [Rejected(record.image_id, "relation duplicate")] * (len(draft.relations) - len(once))
            draft.relations = once
            add_pairs(draft, pairs.of(record.image_id), names, self.category_name)
            yield replace(
                record, boxes=tuple(draft.boxes), relations=tuple(draft.relations), rejects=tuple(draft.rejects)
            )
        self.report(1.0)
        known = seen | shared
        require_images(self.source.relations, [image_id for image_id, _ in pairs.counts()], known, self.annotation_file)
        self.rejects += [
            Rejected(image_id, f"{what} of unknown image", f"{count} {what}")
            for what, spilled in (("annotations", boxes), ("relations", relations), ("relations", pairs))
            for image_id, count in spilled.counts()
            if image_id not in known
        ]

    def category_name(self, name: str) -> str:
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
            found = as_object(entry)
            category_id, name = as_id(found.get("id")), found.get("name")
            if category_id is None or not isinstance(name, str) or not name.strip():
                self.rejects.append(Rejected(NO_IMAGE, "category without an integer id or a name", shown(entry)))
                continue
            name = self.category_name(readable(name))
            if categories.setdefault(category_id, name) != name:
                self.rejects.append(Rejected(NO_IMAGE, "category id of several names", shown(entry)))
                unusable.add(category_id)
        return {category_id: name for category_id, name in categories.items() if category_id not in unusable}

    def _record(self, entry: Any, seen: set[int]) -> ImageRecord | None:
        values = as_object(entry)
        name = values.get("file_name") if isinstance(entry, dict) else entry
        path = self._relative_path(name) if isinstance(name, str) else name
        found = self.accepted(as_id(values.get("id")), path, seen)
        if found is None:
            return None
        size = as_size(values.get("width")), as_size(values.get("height"))
        return self.record(found[0], self.place(found[1]), size)

    def _add_boxes(self, draft: Draft, spilled: Spill, categories: Mapping[int, str]) -> None:
        for category, sides, source, is_crowd, is_fake, is_reflected in spilled.of(draft.image_id):
            category_id, numbers, source_id = as_id(category), as_four_numbers(sides), as_id(source)
            if category_id is None or category_id not in categories:
                draft.reject("unknown category id", category)
            elif numbers is None:
                draft.reject("box malformed", sides)
            else:
                box = Box(categories[category_id], *numbers, is_crowd == 1, -1 if source_id is None else source_id)
                if unwanted := self._unwanted(is_fake == 1, is_reflected == 1):
                    draft.reject(unwanted, box.written())
                else:
                    draft.add(box, box.source_id if box.source_id >= 0 else None)

    def _unwanted(self, is_fake: bool, is_reflected: bool) -> str:
        """The reason to reject a box; "" to keep it."""
        return ""


def _of_several(listed: array[int]) -> set[int]:
    """The ids that have several names in a flat list of ids and hashes of names.

    Their boxes can't be told apart: two files of annotations were joined without renumbering them.
    """
    ids, names = np.asarray(listed, np.int64).reshape(-1, 2).T
    order = np.argsort(ids, kind="stable")
    ids, names = ids[order], names[order]
    return set(ids[1:][(ids[1:] == ids[:-1]) & (names[1:] != names[:-1])].tolist())
