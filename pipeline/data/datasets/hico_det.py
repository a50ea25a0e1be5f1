"""Reads HICO-DET in the layout of RLIPv2's authors: boxes with COCO category ids, pairs as indices into the boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pipeline.data.datasets.annotations import AnnotationError, as_id, as_object, as_size
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.names import COCO_CATEGORIES, read_names
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, Draft, ImageRecord, name_of, numbers_of
from pipeline.data.datasets.source import DataSource

EXPECTED = "HICO-DET: a list of {file_name, img_id, annotations, hoi_annotation}"


class HicoDetReader(Reader):
    """Yields images in file order. Verbs are ids into the verb list, including "no interaction"."""

    files: ClassVar = {"annotations": "JSON", "verbs": "names", "objects": "names"}
    required = ("verbs",)

    def __init__(self, source: DataSource, scratch: Path | None = None) -> None:
        super().__init__(source, scratch)
        self._verbs = read_names(self.required_file("verbs"))
        self._objects = COCO_CATEGORIES if source.objects is None else read_names(source.objects)
        self.objects = tuple(name for _, name in sorted(self._objects.items()))
        self.predicates = tuple(name for _, name in sorted(self._verbs.items()))
        coco = set(COCO_CATEGORIES.values())
        self._numbered_anew = set(self.objects) == coco and self._objects != COCO_CATEGORIES
        """Whether the list has COCO's names under ids other than COCO's, as hico_list_obj.txt does"""

    def _records(self) -> Iterator[ImageRecord]:
        seen: set[int] = set()
        for entry in map(as_object, stream_rows(self.annotation_file, EXPECTED)):
            accepted = self.accepted(as_id(entry.get("img_id")), entry.get("file_name"), seen)
            if accepted is not None:
                yield self._record(*accepted, entry)

    def _record(self, image_id: int, file_name: str, entry: dict[str, Any]) -> ImageRecord:
        draft = Draft(image_id)
        for position, item in enumerate(draft.listed(entry, "annotations")):
            with draft.rejecting(item):
                found = as_object(item)
                corners = numbers_of(found.get("bbox"))
                with draft.rejecting(found.get("category_id")):
                    category = name_of(self._objects, found.get("category_id"), "unknown category id")
                    draft.add(Box.between(category, corners, position), position)
        for item in draft.listed(entry, "hoi_annotation"):
            with draft.rejecting(item):
                found = as_object(item)
                if (number := as_id(found.get("category_id"))) == 0 and 0 not in self._verbs:
                    raise AnnotationError(
                        f"{self.annotation_file}: unknown verb id 0: its verbs are numbered from 0, and those of "
                        f"{self.source.verbs} from 1, so each would be read as the one before it; add 1 to "
                        "`category_id`"
                    )
                verb = name_of(self._verbs, number, "unknown verb id")
                draft.relate(as_id(found.get("subject_id")), verb, as_id(found.get("object_id")))
                self._check_subject(draft.boxes[draft.relations[-1].subject])
        size = as_size(entry.get("width")), as_size(entry.get("height"))
        return self.drafted(draft, self.place(file_name), size)

    def _check_subject(self, box: Box) -> None:
        """Raises `AnnotationError` where a list of COCO's names by other ids turns persons into something else."""
        if self._numbered_anew and box.category != "person":
            raise AnnotationError(
                f"{self.source.objects}: names the subject of an interaction {box.category!r}, so the annotations use "
                "COCO's ids; omit `objects`"
            )
