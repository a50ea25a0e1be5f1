"""Writes annotations in V-COCO's layout: actions by annotation id, and the boxes as COCO instances."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.datasets.record import NO_OBJECT, ImageRecord
from pipeline.interop.annotation_images import AnnotationImages, size_fields
from pipeline.interop.json_writer import number, write_list, write_object

PERSON = "person"
_ROLES = ("obj", "instr")


@dataclass
class _Action:
    """One action. It has a row for each person of the set, and more if a person does it to several objects."""

    roles: list[str]
    people: array[int] = field(default_factory=lambda: array("q"))
    images: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    objects: list[array[int]] = field(default_factory=list)
    """Annotation ids by role, 0 for none"""

    def add(self, person: int, image_id: int, label: int, objects: Sequence[int]) -> None:
        self.people.append(person)
        self.images.append(image_id)
        self.labels.append(label)
        for role, target in zip(self.objects, objects, strict=True):
            role.append(target)

    def as_json(self, name: str) -> dict[str, Any]:
        """The entry of the file. `role_object_id` lists the people, then the objects role by role."""
        roles = ["agent", *self.roles]
        return {
            "action_name": name,
            "role_name": roles,
            "include": roles,
            "ann_id": self.people.tolist(),
            "image_id": self.images.tolist(),
            "label": self.labels.tolist(),
            "role_object_id": [*self.people, *(target for role in self.objects for target in role)],
        }


def write_vcoco_annotations(images: AnnotationImages, folder: Path) -> None:
    """Writes `vcoco.json` and `instances.json`.

    A predicate such as "hold obj" or "cut instr" is an action with that role; of others the role is "obj", or none if no
    relation of theirs has an object. Relations whose subject is no person are counted as lost.
    """
    roles = {name: _role(name, name in images.with_object) for name in images.predicates}
    actions: dict[str, _Action] = {}
    for action, role in roles.values():
        actions.setdefault(action, _Action([])).roles += [role] if role else []
    for each in actions.values():
        each.objects = [array("q") for _ in each.roles]
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record, uri in images:
        first = len(annotations) + 1
        ids = [box.source_id if images.keeps_ids else first + place for place, box in enumerate(record.boxes)]
        entries.append({"id": record.image_id, "file_name": uri, **size_fields(record)})
        annotations += _annotations(record, ids, images.objects)
        _add_rows(images, record, ids, roles, actions)
    images.tally.wrote["boxes"] += len(annotations)
    categories = [{"id": key, "name": name} for name, key in images.objects.items()]
    parts = [("images", entries), ("annotations", annotations), ("categories", categories)]
    write_object(folder / "instances.json", parts)
    write_list(folder / "vcoco.json", (each.as_json(name) for name, each in actions.items()))


def _role(predicate: str, has_object: bool) -> tuple[str, str]:
    action, _, role = predicate.rpartition(" ")
    if action and role in _ROLES:
        return action, role
    return predicate, "obj" if has_object else ""


def _annotations(record: ImageRecord, ids: Sequence[int], objects: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "id": key,
            "image_id": record.image_id,
            "category_id": objects[box.category],
            "bbox": [number(side) for side in (box.x, box.y, box.w, box.h)],
            "area": number(box.w * box.h),
            "iscrowd": int(box.crowd),
        }
        for key, box in zip(ids, record.boxes, strict=True)
    ]


def _add_rows(
    images: AnnotationImages,
    record: ImageRecord,
    ids: Sequence[int],
    roles: Mapping[str, tuple[str, str]],
    actions: Mapping[str, _Action],
) -> None:
    """Adds the rows of an image to all actions, for each of its people."""
    done: dict[tuple[int, str], dict[str, list[int]]] = {}
    for relation in record.relations:
        if record.boxes[relation.subject].category != PERSON:
            images.tally.note("relation whose subject is no person")
            continue
        action, role = roles[relation.predicate]
        targets = done.setdefault((relation.subject, action), {}).setdefault(role, [])
        targets += [] if relation.object == NO_OBJECT else [ids[relation.object]]
        images.tally.wrote["relations"] += 1
    for index, box in enumerate(record.boxes):
        for name, each in actions.items() if box.category == PERSON and not box.crowd else ():
            found = done.get((index, name))
            columns = [(found or {}).get(role, []) for role in each.roles]
            # The n-th objects of all roles share a row; a person without any still has one.
            for place in range(max([1, *map(len, columns)])):
                targets = [column[place] if place < len(column) else 0 for column in columns]
                each.add(ids[index], record.image_id, int(found is not None), targets)
