"""The truth of V-COCO (Gupta and Malik 2015): which persons do which actions, and with which things.

Axes: N persons, A actions, R roles of actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.datasets.annotations import AnnotationError, as_four_numbers
from pipeline.data.datasets.json_stream import stream_lists, stream_rows
from pipeline.evaluation.relations import Floats, Integers

Role = tuple[str, str]
"""Action and role, e.g. ("cut", "instr")."""
AGENT = "agent"
_ACTIONS = "V-COCO's list of actions with action_name, role_name, image_id, ann_id, label and role_object_id"
_INSTANCES = "COCO instances with images, annotations and categories"


@dataclass(frozen=True)
class VcocoTruth:
    """N annotated or unannotated persons of `images` images, by ascending image."""

    images: int
    actions: tuple[str, ...]
    roles: tuple[Role, ...]
    """In the order of actions. Agents are not among them."""
    image: Integers
    """N: the position of each person's image in the test set"""
    boxes: Floats
    """N×4 absolute pixels (left, top, right, bottom)"""
    labels: Integers
    """N×A: 1 where the person does the action, 0 where not, -1 where not annotated"""
    role_boxes: Floats
    """N×R×4; NaN where the person does not do the action, or does it without a thing"""
    image_ids: tuple[int, ...] = ()
    uris: tuple[str, ...] = ()
    """The id and the file name of each image"""

    @property
    def unannotated(self) -> np.ndarray:
        """N: whether a person has no annotation. Predictions that match one do not count."""
        return np.asarray((self.labels < 0).any(axis=1))

    def of_images(self, image_ids: Sequence[int]) -> VcocoTruth:
        """Returns the truth of some of its images, in the given order."""
        places = {image_id: place for place, image_id in enumerate(image_ids)}
        image = np.array([places.get(each, -1) for each in self.image_ids], np.int64)[self.image]
        kept = np.argsort(image, kind="stable")[(image < 0).sum() :]
        columns = {name: getattr(self, name)[kept] for name in ("boxes", "labels", "role_boxes")}
        names = dict(zip(self.image_ids, self.uris, strict=True))
        uris = tuple(names[image_id] for image_id in image_ids)
        return replace(self, images=len(image_ids), image=image[kept], image_ids=tuple(image_ids), uris=uris, **columns)


def read_vcoco_truth(actions: Path, instances: Path) -> VcocoTruth:
    """Reads `vcoco_test.json` and the COCO instances of its images, in the layout of V-COCO's authors.

    Boxes are cleaned as vsrl_eval does: the last pixel belongs to them, they are clipped to the image, and those
    without an area are left out. Raises `AnnotationError` if a file is of another kind, an image is missing, or an
    annotation names a box that isn't there.
    """
    try:
        verbs = list(stream_rows(actions, _ACTIONS))
        # The public files have nested each id in a list of its own.
        ids = list(dict.fromkeys(np.asarray(verbs[0]["image_id"], np.int64).reshape(-1).tolist()))
        boxes = _Boxes(ids, instances)
        return _truth([_Verb.of(verb) for verb in verbs], boxes, ids, actions)
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{actions} or {instances}: {error!r}; expected {_ACTIONS}, and {_INSTANCES}") from error


@dataclass(frozen=True)
class _Verb:
    """One action of V-COCO's file; row i of `objects` (roles without the agent) belongs to annotation `persons[i]`."""

    name: str
    roles: tuple[str, ...]
    persons: Integers
    label: Integers
    objects: Integers

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> _Verb:
        names = list(row["role_name"])
        # The file states the ids role by role.
        ids = np.asarray(row["role_object_id"], np.int64).reshape(len(names), -1).T
        others = [place for place, name in enumerate(names) if name != AGENT]
        return cls(
            name=str(row["action_name"]),
            roles=tuple(names[place] for place in others),
            persons=np.asarray(row["ann_id"], np.int64).reshape(-1),
            label=np.asarray(row["label"], np.int64).reshape(-1),
            objects=ids[:, others],
        )


class _Boxes:
    """The usable boxes of the images, by annotation id, and the persons among them in the order of the file."""

    def __init__(self, ids: list[int], path: Path) -> None:
        position = {each: place for place, each in enumerate(ids)}
        sizes: dict[int, tuple[float, float]] = {}
        self.uris: dict[int, str] = {}
        people: set[int] = set()
        annotations: list[dict[str, Any]] = []
        for kind, row in stream_lists(path, _INSTANCES, ("images", "annotations", "categories")):
            if kind == "categories" and row["name"] == "person":
                people.add(row["id"])
            elif kind == "images" and int(row["id"]) in position:
                sizes[int(row["id"])] = row["width"], row["height"]
                self.uris[int(row["id"])] = str(row.get("file_name", row["id"]))
            elif kind == "annotations" and int(row["image_id"]) in position and row.get("ignore") != 1:
                annotations.append({name: row[name] for name in ("id", "image_id", "category_id", "bbox", "area")})
        missing = [each for each in ids if each not in sizes]
        if missing:
            raise AnnotationError(f"{path}: lacks {len(missing)} of {len(ids)} images, e.g. {missing[:3]}")
        self.clean: dict[int, tuple[float, ...]] = {}
        self.persons: list[tuple[int, int]] = []
        """Position of the image, and annotation id"""
        for row in annotations:
            image_id = int(row["image_id"])
            box = _clean(row, *sizes[image_id])
            if box is not None:
                self.clean[int(row["id"])] = box
                if row["category_id"] in people:
                    self.persons.append((position[image_id], int(row["id"])))
        self.persons.sort(key=lambda person: person[0])


def _truth(verbs: list[_Verb], boxes: _Boxes, ids: list[int], path: Path) -> VcocoTruth:
    person_ids = [annotation for _, annotation in boxes.persons]
    place = {annotation: row for row, annotation in enumerate(person_ids)}
    roles = tuple((verb.name, role) for verb in verbs for role in verb.roles)
    annotated = set(verbs[0].persons.tolist())
    labels = np.full((len(person_ids), len(verbs)), -1, np.int64)
    labels[[row for row, annotation in enumerate(person_ids) if annotation in annotated]] = 0
    role_boxes = np.full((len(person_ids), len(roles), 4), np.nan)
    first_role = 0
    for action, verb in enumerate(verbs):
        for person, objects in zip(verb.persons[verb.label == 1], verb.objects[verb.label == 1], strict=True):
            row = place.get(int(person))
            if row is None:
                continue
            labels[row, action] = 1
            for offset, thing in enumerate(objects.tolist()):
                if thing and thing not in boxes.clean:
                    raise AnnotationError(
                        f"{path}: {verb.name} of person {person} names box {thing}, which is missing or empty"
                    )
                if thing:
                    role_boxes[row, first_role + offset] = boxes.clean[thing]
        first_role += len(verb.roles)
    return VcocoTruth(
        images=len(ids),
        actions=tuple(verb.name for verb in verbs),
        roles=roles,
        image=np.array([image for image, _ in boxes.persons], np.int64),
        boxes=np.array([boxes.clean[each] for each in person_ids], np.float64).reshape(-1, 4),
        labels=labels,
        role_boxes=role_boxes,
        image_ids=tuple(ids),
        uris=tuple(boxes.uris[image_id] for image_id in ids),
    )


def _clean(row: Mapping[str, Any], width: float, height: float) -> tuple[float, ...] | None:
    """Returns left, top, right, bottom inside the image, the last pixel included; None for a box without area."""
    numbers = as_four_numbers(row["bbox"])
    if numbers is None or not row["area"] > 0:
        return None
    x, y, w, h = numbers
    right, bottom = x + max(0.0, w - 1), y + max(0.0, h - 1)
    left, right = (min(width - 1.0, max(0.0, value)) for value in (x, right))
    top, bottom = (min(height - 1.0, max(0.0, value)) for value in (y, bottom))
    return (left, top, right, bottom) if right > left and bottom > top else None
