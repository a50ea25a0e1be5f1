"""Writes a run in V-COCO's layout (Gupta and Malik 2015): actions of people, in addition to COCO's instances."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.datasets.record import NO_OBJECT
from pipeline.interop.coco_writer import coco_instances
from pipeline.interop.further_fields import further_fields, keeps_fields
from pipeline.interop.json_writer import write_list, write_object
from pipeline.interop.run_rows import ImageRows, RunRows, Tally, numbered_names, relations_of

PERSON = "person"
_ROLES = ("obj", "instr")


@dataclass
class _Action:
    """One action. It has a row for each person in the dataset, and more if a person does it to several objects."""

    roles: list[str] = field(default_factory=list)
    rows: array[int] = field(default_factory=lambda: array("q"))
    """Of each row the person's annotation id, the image id, label 1 or 0, and annotation ids by role, 0 for none."""

    def as_json(self, name: str) -> dict[str, Any]:
        """The entry in the file. `role_object_id` lists the people, then the objects role by role."""
        roles = ["agent", *self.roles]
        people, images, labels, *objects = np.asarray(self.rows).reshape(-1, 2 + len(roles)).T.tolist()
        return {
            "action_name": name,
            "role_name": roles,
            "include": roles,
            "ann_id": people,
            "image_id": images,
            "label": labels,
            "role_object_id": [*people, *(target for role in objects for target in role)],
        }


@keeps_fields
def write_vcoco(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """Writes `vcoco.json` and `instances.json` for each dataset.

    A predicate such as "hold obj" or "cut instr" is an action with that role. Other predicates get role "obj", or none
    if no relation with them has an object. Relations whose subject is not a person, or is a crowd, are counted as lost.
    """
    rows.require_kept()
    for dataset, place in rows.folders(folder):
        objects, predicates = numbered_names(rows, dataset, threshold)
        with_object = {
            each["predicate"]
            for image in rows.images(dataset, "images", "relations")
            for each in relations_of(image, threshold, Tally(), objectless=True)
            if each["object"] != NO_OBJECT
        }
        roles = {name: _role(name, name in with_object) for name in predicates}
        actions: dict[str, _Action] = {}
        for action, role in dict.fromkeys(roles.values()):
            actions.setdefault(action, _Action()).roles += [role] if role else []
        instances, annotations = coco_instances(rows, dataset, objects, further_fields(rows, dataset, tally), tally)
        for image in rows.images(dataset, "images", "relations"):
            ids = [box["id"] for box in annotations.get(image.image_id, ())]
            relations = relations_of(image, threshold, tally, objectless=True)
            _add_rows(image, relations, ids, roles, actions, tally)
        write_object(place / "instances.json", instances.items())
        write_list(place / "vcoco.json", (each.as_json(name) for name, each in actions.items()))


def _role(predicate: str, has_object: bool) -> tuple[str, str]:
    action, _, role = predicate.rpartition(" ")
    if action and role in _ROLES:
        return action, role
    return predicate, "obj" if has_object else ""


def _add_rows(
    image: ImageRows,
    relations: Sequence[Mapping[str, Any]],
    ids: Sequence[int],
    roles: Mapping[str, tuple[str, str]],
    actions: Mapping[str, _Action],
    tally: Tally,
) -> None:
    """Adds an image's rows to all actions, for each person in it. `ids`: of its boxes."""
    boxes = image.items("images", "boxes")
    done: dict[tuple[int, str], dict[str, list[int]]] = {}
    for relation in relations:
        subject, target = relation["subject"], relation["object"]
        if boxes[subject]["category"] != PERSON:
            tally.note("relation whose subject is not a person")
            continue
        if boxes[subject]["crowd"]:
            tally.note("relation whose subject is a crowd")
            continue
        action, role = roles[relation["predicate"]]
        targets = done.setdefault((subject, action), {}).setdefault(role, [])
        targets += [] if target == NO_OBJECT else [ids[target]]
        tally.wrote["relations"] += 1
        tally.note("score, origin and calibration of a relation", int("score" in relation))
    people = [index for index, box in enumerate(boxes) if box["category"] == PERSON and not box["crowd"]]
    tally.note("image without a person, which V-COCO's file does not list", int(not people))
    for index in people:
        for name, each in actions.items():
            found = done.get((index, name))
            columns = [(found or {}).get(role, []) for role in each.roles]
            # The n-th objects of all roles share a row; a person without objects still has one.
            for place in range(max([1, *map(len, columns)])):
                targets = [column[place] if place < len(column) else 0 for column in columns]
                each.rows.extend((ids[index], image.image_id, int(found is not None), *targets))
