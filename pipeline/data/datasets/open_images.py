"""Reads the relations of Open Images V6 (oidv6-*-annotations-vrd.csv), with boxes as shares of the image."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from pipeline.data.datasets.annotations import NO_IMAGE, AnnotationError, as_size, readable, shown
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import Box, Draft, ImageRecord, Unusable
from pipeline.data.datasets.spill import Spill
from pipeline.data.images.opening import BadImage, probe
from pipeline.runtime.stage import Rejected

RELATIONS = "Open Images relations: a CSV with ImageID, LabelName1, LabelName2, XMin1, ..., YMax2, RelationshipLabel"
BOXES = "Open Images boxes: a CSV with ImageID, LabelName, XMin, XMax, YMin, YMax"
CLASSES = "Open Images class descriptions: a CSV with one label such as /m/01g317 and its name per line"
SIZES = "image sizes: a CSV with ImageID, Width, Height"
LABELS = "verified image labels: a CSV with ImageID and LabelName"
ATTRIBUTE = "is"
"""The relationship that states an attribute ("chair is wooden"), whose second label names no object."""
_HEX = re.compile(r"[0-9a-f]{16}")
_SIDES = ("XMin", "YMin", "XMax", "YMax")


def id_of(name: str) -> int | None:
    """The image id of Open Images' 16 hex digits: their value as a signed number of 64 bits; None for other text.

    Values from 2**63 become negative (value - 2**64), so every id fits the tables.
    """
    if not _HEX.fullmatch(name):
        return None
    value = int(name, 16)
    return value - 2**64 if value >= 2**63 else value


def image_labels(path: Path, classes: Path) -> Iterator[tuple[int, str]]:
    """Yields id and class name of each verified image-level label, positive or negative. Raises `AnnotationError`."""
    names = _names(classes)
    for image, label in _rows(path, ("ImageID", "LabelName"), LABELS):
        image_id = id_of(image)
        if image_id is not None and label in names:
            yield image_id, names[label]


class OpenImagesReader(Reader):
    """Yields the images that have a row in the relations CSV, in the order of their first one.

    The boxes are those of relations, then those of `boxes`; equal boxes of one label are the same object. Attributes
    ("chair is wooden") are rejected. Open Images states no image sizes: they come from `image_data`
    (ImageID, Width, Height) or, when images are read, from the headers of their files.
    """

    files: ClassVar = {"annotations": "CSV", "classes": "CSV", "boxes": "CSV", "image_data": "CSV"}
    required = ("classes",)

    def _records(self) -> Iterator[ImageRecord]:
        names = _names(self.required_file("classes"))
        sizes = self._sizes()
        with closing(Spill(self.scratch)) as relations, closing(Spill(self.scratch)) as boxes:
            images = self._spill(relations, boxes)
            self.objects = tuple(sorted(set(names.values())))
            for name in images:
                yield self._record(name, sizes.get(name), names, relations, boxes)

    def _spill(self, relations: Spill, boxes: Spill) -> Mapping[str, None]:
        """Spills relations and boxes to disk. Returns the images in file order."""
        predicates: set[str] = set()
        images: dict[str, None] = {}
        for name, image_id, rows in self._identified(_RELATION_COLUMNS, RELATIONS):
            images[name] = None
            for row in rows:
                relations.add(image_id, row)
                if row[-1] != ATTRIBUTE:
                    predicates.add(row[-1])
        self._spill_boxes(images, boxes)
        self.predicates = tuple(sorted(readable(predicate) for predicate in predicates))
        return images

    def _identified(self, columns: tuple[str, ...], expected: str) -> Iterator[tuple[str, int, Iterator[list[str]]]]:
        """Yields runs of rows of one image with its name and id. Rejects names that are not ids."""
        for name, rows in _by_image(self.annotation_file, columns, expected):
            image_id = id_of(name)
            if image_id is None:
                self.rejects.append(Rejected(NO_IMAGE, "image id not 16 hex digits", shown(name)))
            else:
                yield name, image_id, rows

    def _spill_boxes(self, images: Mapping[str, None], boxes: Spill) -> None:
        others = 0
        for name, rows in _by_image(self.source.boxes, _BOX_COLUMNS, BOXES) if self.source.boxes else ():
            image_id = id_of(name)
            if name in images and image_id is not None:
                for row in rows:
                    boxes.add(image_id, row)
            else:
                others += 1
        if others:
            self.rejects.append(Rejected(NO_IMAGE, "boxes of images without relations", f"{others} images"))

    def sized(self, record: ImageRecord) -> ImageRecord:
        """The record with the size of the image's file, and boxes in its pixels, if no annotation file states it."""
        if (record.width, record.height) != (1, 1):
            return record
        try:
            found = probe(record.path)
        except BadImage:  # `validate` rejects it with the reason
            return replace(record, width=None, height=None)
        boxes = tuple(_scaled(box, found.width, found.height) for box in record.boxes)
        return replace(record, width=found.width, height=found.height, boxes=boxes)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        sizes = {}
        for name, rows in (
            _by_image(self.source.image_data, ("Width", "Height"), SIZES) if self.source.image_data else ()
        ):
            width, height = (as_size(value) for value in next(iter(rows)))
            if width is None or height is None:
                self.rejects.append(Rejected(id_of(name) or NO_IMAGE, "image size not usable", shown(name)))
            else:
                sizes[name] = width, height
        return sizes

    def _record(
        self, name: str, size: tuple[int, int] | None, names: Mapping[str, str], relations: Spill, boxes: Spill
    ) -> ImageRecord:
        image_id = id_of(name)
        assert image_id is not None  # others were rejected
        width, height = size or (1, 1)
        draft = Draft(image_id)
        for subject, target, *sides, predicate in relations.of(image_id):
            if predicate == ATTRIBUTE:
                draft.reject("attribute, not a relation", f"{subject} is {target}")
                continue
            with draft.rejecting([subject, predicate, target, *sides]):
                ends = [
                    _box(label, corners, names, "relation of unknown category", "relation without box")
                    for label, corners in ((subject, sides[:4]), (target, sides[4:]))
                ]
                draft.relate_boxes(ends[0], readable(predicate), ends[1])
        for label, *sides, is_group in boxes.of(image_id):
            with draft.rejecting([label, *sides]):
                box = _box(label, sides, names, "unknown category", "box malformed")
                if box not in draft.places:
                    draft.add(box._replace(crowd=is_group == "1"), box)
        draft.boxes = [_scaled(box, width, height) for box in draft.boxes]
        return self.drafted(draft, self.place(f"{name}.jpg"), (width, height))


class OpenImagesBoxesReader(OpenImagesReader):
    """Yields the images of a bbox CSV, such as train-annotations-bbox.csv, without relations."""

    files: ClassVar = {"annotations": "CSV", "classes": "CSV", "image_data": "CSV"}

    def _spill(self, relations: Spill, boxes: Spill) -> Mapping[str, None]:
        images: dict[str, None] = {}
        for name, image_id, rows in self._identified(_BOX_COLUMNS, BOXES):
            images[name] = None
            for row in rows:
                boxes.add(image_id, row)
        return images


_GROUP = "IsGroupOf"
"""An optional column: 1 for a box around more than five objects that touch."""
_BOX_COLUMNS = ("LabelName", *_SIDES, _GROUP)
_RELATION_COLUMNS = (
    "LabelName1", "LabelName2", *(f"{side}1" for side in _SIDES), *(f"{side}2" for side in _SIDES), "RelationshipLabel",
)  # fmt: skip


def _box(label: str, sides: list[str], names: Mapping[str, str], unknown: str, malformed: str) -> Box:
    """The box in shares of the image. Raises `Unusable`: `malformed` is the reason for sides that are not numbers."""
    if label not in names:
        raise Unusable(unknown)
    try:
        return Box.between(names[label], [float(side) for side in sides])
    except ValueError:
        raise Unusable(malformed) from None


def _scaled(box: Box, width: int, height: int) -> Box:
    return box._replace(x=box.x * width, y=box.y * height, w=box.w * width, h=box.h * height)


def _by_image(path: Path, columns: tuple[str, ...], expected: str) -> Iterator[tuple[str, Iterator[list[str]]]]:
    """Yields runs of rows of one image, as its name and the values of `columns`. Raises `AnnotationError`."""
    for name, rows in groupby(_rows(path, ("ImageID", *columns), expected), lambda row: row[0]):
        yield name, (row[1:] for row in rows)


def _rows(path: Path, columns: tuple[str, ...], expected: str) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            lacking = [column for column in columns if column not in (*header, _GROUP)]
            if lacking:
                raise AnnotationError(f"{path}: has no column {', '.join(lacking)}; expected {expected}")
            places = [header.index(column) if column in header else None for column in columns]
            for row in reader:
                if len(row) == len(header):
                    yield ["" if place is None else row[place] for place in places]
                elif row:
                    raise AnnotationError(
                        f"{path}: line {reader.line_num} has {len(row)} of {len(header)} values, so the file is "
                        f"damaged or incomplete; download it again. Expected {expected}"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: can't be read ({error}); expected {expected}") from error


def _names(path: Path) -> dict[str, str]:
    """Label → name. The file of 2018 has no header, that of V7 begins with LabelName,DisplayName."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: can't be read ({error}); expected {CLASSES}") from error
    wrong = [row for row in rows if len(row) != 2]
    names = {label: readable(name.strip()) for label, name in rows if label.startswith("/")} if not wrong else {}
    if not names:
        raise AnnotationError(f"{path}: names no label; expected {CLASSES}")
    return names
