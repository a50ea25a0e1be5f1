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
from pipeline.data.datasets.coco import EXPECTED as INSTANCES
from pipeline.data.datasets.vcoco import EXPECTED as ACTIONS, VcocoAction, VcocoImage, join_instances, read_actions
from pipeline.evaluation.relations import Floats, Integers

Role = tuple[str, str]
"""Action and role, e.g. ("cut", "instr")."""


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
    without an area are left out. Raises `AnnotationError` if a file is of another kind, an image is missing, an
    annotation names a box that isn't there, or a person does an action twice.
    """
    try:
        return _truth([*read_actions(actions)], actions, instances)
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{actions} or {instances}: {error!r}; expected {ACTIONS}, and {INSTANCES}") from error


def _truth(verbs: list[VcocoAction], actions: Path, instances: Path) -> VcocoTruth:
    images = {int(image_id): VcocoImage() for _, image_id, *_ in verbs[0].rows}
    categories = join_instances(images, instances, ("id", "category_id", "bbox", "area", "ignore"))
    found = {image_id: image.entry for image_id, image in images.items() if image.entry is not None}
    if missing := [image_id for image_id in images if image_id not in found]:
        raise AnnotationError(f"{instances}: lacks {len(missing)} of {len(images)} images, e.g. {missing[:3]}")
    acting = {int(person) for verb in verbs for person, _, label, _ in verb.rows if label == 1}
    if unlisted := acting - {int(box["id"]) for image in images.values() for box in image.annotations}:
        raise AnnotationError(
            f"{instances}: lacks {len(unlisted):,} of {len(acting):,} people of {actions}, e.g. {min(unlisted)}, who "
            "would not count as missed; name the instances of that list's images"
        )
    clean: dict[int, tuple[float, ...]] = {}
    image_of: dict[int, int] = {}
    # Of a person, the position of the image
    for position, (image_id, entry) in enumerate(found.items()):
        for annotation in images[image_id].annotations:
            if annotation["ignore"] == 1:
                continue
            box = _clean(annotation, entry["width"], entry["height"])
            if box is not None:
                clean[int(annotation["id"])] = box
                if categories.get(annotation["category_id"]) == "person":
                    image_of[int(annotation["id"])] = position
    place = {person: row for row, person in enumerate(image_of)}
    roles = tuple((verb.name, role) for verb in verbs for role in verb.roles)
    labels = np.full((len(place), len(verbs)), -1, np.int64)
    labels[[place[int(person)] for person, *_ in verbs[0].rows if int(person) in place]] = 0
    role_boxes = np.full((len(place), len(roles), 4), np.nan)
    first_role = 0
    for action, verb in enumerate(verbs):
        for person, _, label, things in verb.rows:
            row = place.get(int(person))
            if row is None or label != 1:
                continue
            if labels[row, action] == 1:
                raise AnnotationError(
                    f"{actions}: {verb.name} lists person {person} twice, but V-COCO's scores are of one object for "
                    "each role; keep one row"
                )
            labels[row, action] = 1
            for number, thing in enumerate(map(int, things), first_role):
                if thing and thing not in clean:
                    raise AnnotationError(
                        f"{actions}: {verb.name} of person {person} names box {thing}, which is missing or empty"
                    )
                if thing:
                    role_boxes[row, number] = clean[thing]
        first_role += len(verb.roles)
    return VcocoTruth(
        images=len(images),
        actions=tuple(verb.name for verb in verbs),
        roles=roles,
        image=np.array([*image_of.values()], np.int64),
        boxes=np.array([clean[person] for person in image_of], np.float64).reshape(-1, 4),
        labels=labels,
        role_boxes=role_boxes,
        image_ids=tuple(images),
        uris=tuple(str(entry.get("file_name", image_id)) for image_id, entry in found.items()),
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
