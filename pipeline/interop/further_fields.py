"""What annotation files in or translated to COCO's layout state beyond the tables: masks, licenses, other fields."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import AnnotationError, as_four_numbers, as_id, readable
from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.coco_panoptic import segment_ids
from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import annotation_source
from pipeline.data.datasets.spill import Spill
from pipeline.data.images.folders import open_folder
from pipeline.data.images.opening import BadImage
from pipeline.data.images.refs import ImageFolder
from pipeline.interop.json_writer import number
from pipeline.interop.run_rows import RunRows, Tally
from storage.errors import FatalError

_FILES = dict.fromkeys(("coco", "coco_panoptic", "gqa", "lvis", "objects365", "psg"), "annotations") | {
    "vcoco": "instances"
}
"""Format → the field of its source that names the file."""
_IN_TABLES = {
    "images": frozenset({"id", "file_name", "width", "height"}),
    "annotations": frozenset({"id", "image_id", "category_id", "bbox", "iscrowd"}),
    "categories": frozenset({"id", "name"}),
}
"""List in the file → the fields that exports take from the store."""
_OF_RELATIONS = {
    "rel_annotations": frozenset({"id", "image_id", "subject_id", "predicate_id", "object_id"}),
    "rel_categories": frozenset({"id", "name"}),
}
PNG = "pan_seg_file_name"
"""The field of PSG that names the PNG with an image's masks."""
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_Write = TypeVar("_Write", bound=Callable[..., None])


def keeps_fields(write: _Write) -> _Write:
    """Declares that an export writes masks and other fields that no table has, and counts those it loses."""
    vars(write)["keeps_fields"] = True
    return write


class FurtherFields:
    """The fields that no table has. Those of images and boxes are kept on disk: COCO's outlines take a gigabyte.

    A file that changed since the run read it may call another object by a box's id, so an entry belongs to a box if
    both have the same id and the same sides.
    """

    def __init__(self, tally: Tally, reader: CocoReader | None = None, masks: ImageFolder | None = None) -> None:
        """Reads the annotation file. A damaged one counts up to its error. Notes what no export writes.

        `masks`: the folder of the PNGs that PSG and COCO panoptic name, from which boxes get a `segmentation`.
        """
        self._tally, self._masks = tally, masks
        self.header: dict[str, Any] = {}
        """`info` and `licenses`, if the file states them."""
        self.counts: Counter[str] = Counter()
        """`info`, `licenses`, or list and field, e.g. "annotations.segmentation" → the number of entries with it."""
        self.numbers: dict[str, int | None] = {}
        """The file's id of each category."""
        self._categories: dict[str, dict[str, Any]] = {}
        self._images, self._boxes = Spill(), Spill()
        try:
            for name, value in () if reader is None else reader.entries():
                if name == "categories" and isinstance(value, dict) and reader is not None:
                    value = value | {"name": reader.category_name(readable(str(value.get("name"))))}
                self._keep(name, value)
        except AnnotationError:
            tally.note("further fields after the damage in the annotation file")

    def image(self, image_id: int) -> dict[str, Any]:
        """The further fields of an image; empty if it is unknown."""
        return next(self._images.of(image_id), {})

    def boxes(self, image: Mapping[str, Any], tally: Tally) -> list[dict[str, Any]]:
        """The further fields of each box of a row of `images`; empty for a box without any."""
        entries = [(key, _corners(sides, image), own) for key, sides, own in self._boxes.of(image["image_id"])]
        found: list[dict[str, Any]] = []
        for box in image["boxes"]:
            key, corners = box["source_id"], _corners([box[side] for side in "xywh"], image)
            for entry in entries:
                # Tables have single precision.
                if entry[0] == key and all(abs(a - b) < 0.01 for a, b in zip(entry[1], corners, strict=True)):
                    entries.remove(entry)
                    break
            else:
                entry = (key, corners, {})
            found.append(entry[2])
        left = {key for key, *_ in entries}
        lost = sum(not own and box["source_id"] in left for own, box in zip(found, image["boxes"], strict=True))
        tally.note("box that the annotation file now places elsewhere: its mask and further fields", lost)
        if self._masks is not None:
            self._add_masks(self.image(image["image_id"]), found)
        return found

    def _add_masks(self, common: Mapping[str, Any], boxes: Sequence[dict[str, Any]]) -> None:
        from pycocotools.mask import encode

        pixels: dict[str, NDArray[np.int64]] = {}
        for fields in boxes:
            segment, name = fields.get("segments_info"), fields.get(PNG, common.get(PNG))
            if isinstance(segment, dict) and isinstance(name, str) and self._masks is not None:
                try:
                    pixels[name] = pixels[name] if name in pixels else segment_ids(self._masks, name)
                except BadImage as bad:
                    raise FatalError(
                        f"--masks: {name}: {bad.reason} ({bad.value}); name the folder that it is in"
                    ) from bad
                if (inside := pixels[name] == segment.get("id")).any():
                    # pycocotools takes masks in Fortran's order alone.
                    found = encode(np.asfortranarray(inside, np.uint8))
                    fields["segmentation"] = found | {"counts": found["counts"].decode()}

    def category(self, name: str) -> dict[str, Any]:
        """The further fields of a category; empty if it is unknown."""
        return self._categories.get(name, {})

    def _keep(self, name: str, value: Any) -> None:
        if name in ("info", "licenses") and value not in _EMPTY and self._is_writable(value):
            self.header[name] = value if name == "info" else [*self.header.get(name, ()), value]
            self.counts[name] += 1
        elif name in _OF_RELATIONS and isinstance(value, dict):
            for field in value.keys() - _OF_RELATIONS[name]:
                self._tally.note(f"field {name}.{field}")
        elif name in _IN_TABLES and isinstance(value, dict):
            further = {key: each for key, each in value.items() if key not in _IN_TABLES[name] and each not in _EMPTY}
            key = as_id(value.get("id"))
            if name == "categories":
                self.numbers[value["name"]] = key
            if not further or not self._is_writable(further):
                return
            # Without a mask, COCO's area is that of the box.
            sides = as_four_numbers(value.get("bbox"))
            derived = {"area"} if sides and further.get("area") == number(sides[2] * sides[3]) else set()
            self.counts.update(f"{name}.{field}" for field in further.keys() - derived)
            image_id = as_id(value.get("image_id"))
            if name == "categories":
                self._categories[value["name"]] = further
            elif name == "images" and key is not None:
                self._images.add(key, further)
            elif name == "annotations" and image_id is not None and sides is not None:
                self._boxes.add(image_id, (-1 if key is None else key, sides, further))

    def _is_writable(self, value: Any) -> bool:
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            self._tally.note("further fields that JSON can't hold")
            return False
        return True


def _corners(sides: Sequence[float], image: Mapping[str, Any]) -> list[float]:
    """The corners of a box, inside its image."""
    x, y, w, h = sides
    ends = ((x, "width"), (y, "height"), (x + w, "width"), (y + h, "height"))
    return [min(max(end, 0.0), image[side] or math.inf) for end, side in ends]


def further_fields(rows: RunRows, dataset: str, tally: Tally) -> FurtherFields:
    """Reads the annotation file of a run's dataset again. Nothing is known if its layout differs or it is gone."""
    data = rows.run.recipe.get("data", {})
    for source in data.get("sources", ()):
        if source.get("name") == dataset and (field := _FILES.get(source.get("format"))):
            path = Path(data.get("root", "."), source[field])
            if not path.is_file():
                tally.note(f"masks, info, licenses and further fields, because {path.absolute()} is gone")
                continue
            form, split = source["format"] if field == "annotations" else "coco", source.get("split", "train")
            reader = open_source(
                annotation_source(form, path, {}).model_copy(update={"split": split}), with_images=False
            )
            assert isinstance(reader, CocoReader)
            return FurtherFields(tally, reader, None if rows.masks is None else open_folder(rows.masks))
    return FurtherFields(tally)
