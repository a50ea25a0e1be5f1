"""Reads relations from CVAT exports ("CVAT for images 1.1", XML), where attributes or groups state them.

Attributes: a box has `number`, and its `relations` lists predicates with their object's number, e.g. "ride 2; look at
3". Groups: two boxes in a group have `role` "subject" and "object", and the subject's `predicate` names the predicate.
https://docs.cvat.ai/docs/dataset_management/formats/format-cvat describes the file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from pipeline.interop.annotated_image import AnnotatedImage
from pipeline.labels.verdicts import Box4
from storage.errors import FatalError

_STATED = re.compile(r"(.+\S)\s+(\S+)", re.DOTALL)


class _Box(NamedTuple):
    category: str
    place: Box4
    group: str
    attributes: dict[str, str]


def read_cvat(path: Path) -> list[AnnotatedImage]:
    """Reads all images in the file. Raises `FatalError` if it is not CVAT's.

    The parser reads no other files, and refuses entities that expand to much.
    """
    images, outermost = [], ""
    try:
        for _, element in ElementTree.iterparse(path):
            outermost = element.tag
            if element.tag == "image":
                images.append(_image(element))
                # Without this, the whole tree of a large file would stay in memory.
                element.clear()
    except ElementTree.ParseError as error:
        raise FatalError(f"{path}: not XML ({error}); export `CVAT for images 1.1`") from error
    except (KeyError, ValueError) as error:
        raise FatalError(f"{path}: image {len(images) + 1}: {type(error).__name__} {error}") from error
    if outermost != "annotations":
        raise FatalError(f"{path}: has no element `annotations`; export `CVAT for images 1.1`")
    return images


def _image(element: ElementTree.Element) -> AnnotatedImage:
    boxes, name = [], element.attrib["name"]
    for box in element.iter("box"):
        if float(box.get("rotation", 0)):
            raise ValueError(f"image {name!r}: a box is rotated; draw it upright")
        left, top, right, bottom = (float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
        place = round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)
        attributes = {each.attrib["name"]: each.text or "" for each in box.iter("attribute")}
        boxes.append(_Box(box.attrib["label"], place, box.get("group_id", "0"), attributes))
    relations = (*_by_attributes(name, boxes), *_by_groups(name, boxes))
    places = tuple((box.category, box.place) for box in boxes)
    # A half-finished job has images that nobody has opened: without a box, nothing says that a label was seen.
    return AnnotatedImage(name, places, tuple(dict.fromkeys(relations)), shown=None if boxes else frozenset())


def _by_attributes(image: str, boxes: list[_Box]) -> list[tuple[int, str, int]]:
    numbers: dict[str, list[int]] = defaultdict(list)
    for place, box in enumerate(boxes):
        numbers[box.attributes.get("number", "").strip()].append(place)
    found = []
    for place, box in enumerate(boxes):
        for stated in box.attributes.get("relations", "").split(";"):
            if not stated.strip():
                continue
            match = _STATED.fullmatch(stated.strip())
            if match is None or len(numbered := numbers[match[2]]) != 1:
                raise ValueError(
                    f"image {image!r}: relation {stated.strip()[:80]!r}: write PREDICATE NUMBER, e.g. ride 2, with the "
                    "number of one box"
                )
            found.append((place, match[1], numbered[0]))
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
