"""Reads V-COCO as published (s-gupta/v-coco): actions by annotation id, with the boxes of COCO's instances JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pipeline.data.datasets.annotations import NO_IMAGE, AnnotationError, as_id, as_size, readable, shown
from pipeline.data.datasets.coco import EXPECTED as COCO_INSTANCES
from pipeline.data.datasets.json_stream import stream_lists, stream_rows
from pipeline.data.datasets.pairs import vcoco_predicate
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import NO_OBJECT, Box, Draft, ImageRecord, name_of, numbers_of
from pipeline.runtime.stage import Rejected

EXPECTED = "V-COCO's list of actions {action_name, role_name, ann_id, image_id, role_object_id, label}"
AGENT = "agent"


class VcocoAction(NamedTuple):
    """One action of V-COCO's file, with a row for each person who may do it."""

    name: str
    roles: tuple[str, ...]
    """Without the agent's"""
    rows: list[tuple[Any, Any, Any, list[Any]]]
    """Id of the person's annotation, image id, label (1: the person does it), and by role the id of a thing's
    annotation, 0 for none"""


def read_actions(path: Path) -> Iterator[VcocoAction]:
    """Yields the actions of V-COCO's file, whose ids may be anything. Raises `AnnotationError` for unequal lists."""
    for number, entry in enumerate(stream_rows(path, EXPECTED)):
        where = f"{path}: action {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("action_name"), str):
            raise AnnotationError(f"{where}: has no action_name; expected {EXPECTED}")
        action = readable(entry["action_name"])
        roles = [readable(str(role)) for role in entry.get("role_name") or [AGENT]]
        if roles[0] != AGENT:
            raise AnnotationError(f"{where} ({action}): its first role is {roles[0]!r}; expected {AGENT!r}")
        lists = [entry.get(name) for name in ("ann_id", "label", "image_id", "role_object_id")]
        if not all(isinstance(listed, list) for listed in lists):
            raise AnnotationError(f"{where} ({action}): ann_id, image_id, label or role_object_id is not a list")
        people, labels, images, objects = map(_unnested, lists)
        count = len(people)
        if not len(labels) == len(images) == count or len(objects) != count * len(roles):
            raise AnnotationError(
                f"{where} ({action}): {count} people, {len(images)} images, {len(labels)} labels and "
                f"{len(objects)} objects of {len(roles)} roles are inconsistent; download the file again"
            )
        # The file states the objects role by role, of which the first is the agent's.
        by_row = (objects[count + place :: count] for place in range(count))
        yield VcocoAction(action, tuple(roles[1:]), [*zip(people, images, labels, by_row, strict=True)])


@dataclass
class VcocoImage:
    """One image while its actions are joined with its boxes. An action is (person, name, object or 0)."""

    actions: list[tuple[int, str, int]] = field(default_factory=list)
    entry: dict[str, Any] | None = None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[Rejected] = field(default_factory=list)


def join_instances(
    images: Mapping[int, VcocoImage], path: Path, fields: Sequence[str], report: Callable[[float], None] | None = None
) -> dict[int, str]:
    """Adds entries of COCO's instances, and these fields of annotations, to V-COCO's images. Returns the categories."""
    categories: dict[int, str] = {}
    for name, entry in stream_lists(path, COCO_INSTANCES, ("images", "annotations", "categories"), report):
        if not isinstance(entry, dict):
            continue
        if name == "categories":
            category_id, text = as_id(entry.get("id")), entry.get("name")
            if category_id is not None and isinstance(text, str) and text.strip():
                categories[category_id] = readable(text.strip())
            continue
        image_id = as_id(entry.get("id" if name == "images" else "image_id"))
        image = images.get(image_id) if image_id is not None else None
        if image is None:
            continue
        if name == "images":
            image.entry = image.entry or entry
        else:
            image.annotations.append({key: entry.get(key) for key in fields})
    return categories


class VcocoReader(Reader):
    """Yields images by ascending id. A relation is an action with a role: "hold obj", "cut instr"; "walk" has no role.

    An action whose object is not annotated, or that has none, is a relation without an object for `annotations`; `read`
    rejects it ("relation without object") and converts actions to predicates. `instances` may hold more images, as
    those of COCO 2014 do; only V-COCO's are kept in memory.
    """

    files: ClassVar = {"annotations": "JSON", "instances": "JSON"}
    required = ("instances",)

    def _records(self) -> Iterator[ImageRecord]:
        images = self._actions()
        fields = ("id", "category_id", "bbox", "iscrowd")
        categories = join_instances(images, self.required_file("instances"), fields, self.report)
        self.objects = tuple(dict.fromkeys(name for _, name in sorted(categories.items())))
        for image_id in sorted(images):
            image = images.pop(image_id)
            if (record := self._record(image_id, image, categories)) is not None:
                yield record

    def _completed(self, record: ImageRecord) -> ImageRecord:
        relations = tuple(
            relation._replace(predicate=vcoco_predicate(relation.predicate))
            for relation in record.relations
            if relation.object != NO_OBJECT
        )
        without = [
            Rejected(record.image_id, "relation without object", shown(relation.predicate))
            for relation in record.relations
            if relation.object == NO_OBJECT
        ]
        return replace(record, relations=relations, rejects=(*record.rejects, *without))

    def _actions(self) -> dict[int, VcocoImage]:
        """Reads which person does what with which object, by image."""
        images: dict[int, VcocoImage] = {}
        names: list[str] = []
        for action in read_actions(self.annotation_file):
            named = [f"{action.name} {role}" for role in action.roles] or [action.name]
            names += named
            for *ids, label, objects in action.rows:
                person, image_id = map(as_id, ids)
                if image_id is None or person is None:
                    lost = NO_IMAGE if image_id is None else image_id
                    self.rejects.append(Rejected(lost, "relation malformed", shown([action.name, person, image_id])))
                    continue
                image = images.setdefault(image_id, VcocoImage())
                for name, target in zip(named, objects or [0], strict=True) if label == 1 else ():
                    object_id = as_id(target)
                    if object_id is None:
                        image.rejects.append(Rejected(image_id, "relation malformed", shown([name, target])))
                    else:
                        image.actions.append((person, name, object_id))
        self.predicates = tuple(dict.fromkeys(names))
        return images

    def _record(self, image_id: int, image: VcocoImage, categories: dict[int, str]) -> ImageRecord | None:
        entry = image.entry
        if entry is None:
            count = f"{len(image.actions)} actions; is `instances` the file of this split?"
            self.rejects.append(Rejected(image_id, "relations of unknown image", count))
            return None
        accepted = self.accepted(image_id, entry.get("file_name"), set())
        if accepted is None:
            return None
        draft = Draft(image_id, rejects=image.rejects)
        for annotation in image.annotations:
            with draft.rejecting(annotation):
                category = name_of(categories, annotation["category_id"], "unknown category id")
                numbers, source_id = numbers_of(annotation["bbox"]), as_id(annotation["id"])
                crowd = annotation["iscrowd"] == 1
                draft.add(Box(category, *numbers, crowd, -1 if source_id is None else source_id), source_id)
        draft.places["nobody"] = NO_OBJECT
        for person, name, target in image.actions:
            with draft.rejecting([person, name, target]):
                draft.relate(person, name, target or "nobody")
        size = as_size(entry.get("width")), as_size(entry.get("height"))
        return self.drafted(draft, self.place(accepted[1]), size)


def _unnested(listed: Any) -> list[Any]:
    """The items of a list, each of which may be nested in another list."""
    return [item for each in listed for item in (each if isinstance(each, list) else [each])]
