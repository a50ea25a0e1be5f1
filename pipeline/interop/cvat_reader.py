"""Reads relations from CVAT exports ("CVAT for images 1.1", XML), where attributes or groups state them.

Attributes: a box has `number`, and its `relations` lists predicates with their object's number, e.g. "ride 2; look at
3". Groups: two boxes in a group have `role` "subject" and "object", and the subject's `predicate` names the predicate.
https://docs.cvat.ai/docs/dataset_management/formats/format-cvat describes the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from pipeline.interop.annotated_image import AnnotatedImage
from pipeline.labels.verdicts import Box4
from storage.errors import FatalError

_STATED = re.compile(r"(.+\S)\s+(\S+)", re.DOTALL)
MAX_TEXT = 10_000
"""Maximum number of characters in the text of an attribute."""


def read_cvat(path: Path) -> list[AnnotatedImage]:
    """Reads all images in the file. Raises `FatalError` if it is not CVAT's, or declares a DTD or entities."""
    reader = _Reader(path)
    try:
        with path.open("rb") as file:
            reader.parser.ParseFile(file)
    except expat.ExpatError as error:
        raise FatalError(f"{path}: not XML ({error}); export `CVAT for images 1.1`") from error
    except (KeyError, ValueError) as error:
        raise FatalError(f"{path}:{reader.parser.CurrentLineNumber}: {type(error).__name__} {error}") from error
    if not reader.is_cvat:
        raise FatalError(f"{path}: has no element `annotations`; export `CVAT for images 1.1`")
    return reader.images


@dataclass
class _Box:
    category: str
    place: Box4
    group: str
    attributes: dict[str, str] = field(default_factory=dict)


class _Reader:
    """Collects images in expat's callbacks. A document type or entity stops the parser before it is processed."""

    def __init__(self, path: Path) -> None:
        self.images: list[AnnotatedImage] = []
        self.is_cvat = False
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self._path = path
        self._image = ""
        self._boxes: list[_Box] = []
        self._box: _Box | None = None
        self._attribute: str | None = None

    def _refuse(self, *declared: object) -> NoReturn:
        raise FatalError(
            f"{self._path}: declares a document type or an entity, which CVAT's exports never do; export the file again"
        )

    def _start(self, name: str, values: dict[str, str]) -> None:
        if name == "annotations":
            self.is_cvat = True
        elif name == "image":
            self._image, self._boxes = values["name"], []
        elif name == "box":
            left, top, right, bottom = (float(values[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
            place = round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)
            self._box = _Box(values["label"], place, values.get("group_id", "0"))
            self._boxes.append(self._box)
        elif name == "attribute" and self._box is not None:
            self._attribute = values["name"]
            self._box.attributes[self._attribute] = ""

    def _text(self, text: str) -> None:
        if self._attribute is not None and self._box is not None:
            whole = self._box.attributes[self._attribute] + text
            if len(whole) > MAX_TEXT:
                raise ValueError(f"attribute {self._attribute!r} has more than {MAX_TEXT:,} characters")
            self._box.attributes[self._attribute] = whole

    def _end(self, name: str) -> None:
        if name == "attribute":
            self._attribute = None
        elif name == "box":
            self._box = None
        elif name == "image":
            boxes = tuple((box.category, box.place) for box in self._boxes)
            relations = (*_by_attributes(self._image, self._boxes), *_by_groups(self._image, self._boxes))
            self.images.append(AnnotatedImage(self._image, boxes, tuple(dict.fromkeys(relations))))


def _by_attributes(image: str, boxes: list[_Box]) -> list[tuple[int, str, int]]:
    numbers = {box.attributes["number"].strip(): place for place, box in enumerate(boxes) if "number" in box.attributes}
    found = []
    for place, box in enumerate(boxes):
        for stated in box.attributes.get("relations", "").split(";"):
            if not stated.strip():
                continue
            match = _STATED.fullmatch(stated.strip())
            if match is None or match[2] not in numbers:
                raise ValueError(
                    f"image {image!r}: relation {stated.strip()[:80]!r}: write PREDICATE NUMBER, e.g. ride 2"
                )
            found.append((place, match[1], numbers[match[2]]))
    return found


def _by_groups(image: str, boxes: list[_Box]) -> list[tuple[int, str, int]]:
    groups: dict[str, dict[str, list[int]]] = {}
    for place, box in enumerate(boxes):
        role = box.attributes.get("role", "").strip()
        if box.group not in ("", "0") and role in ("subject", "object"):
            groups.setdefault(box.group, {}).setdefault(role, []).append(place)
    found = []
    for group, roles in groups.items():
        if {role: len(places) for role, places in roles.items()} != {"subject": 1, "object": 1}:
            raise ValueError(f"image {image!r}: group {group} needs one box with role subject and one with role object")
        predicate = boxes[roles["subject"][0]].attributes.get("predicate", "").strip()
        if not predicate:
            raise ValueError(f"image {image!r}: group {group}: the subject's attribute `predicate` is empty")
        found.append((roles["subject"][0], predicate, roles["object"][0]))
    return found
