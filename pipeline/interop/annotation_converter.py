"""Converts annotation files of one public format to another, without a run and without images.

A target format is a function in `TARGETS`, which writes `AnnotationImages` to a folder.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.data.datasets.record import NO_OBJECT, AnnotatedRelation, Box, ImageRecord
from pipeline.data.datasets.record_index import open_annotations
from pipeline.data.datasets.source import DataSource, annotation_source
from pipeline.data.images.refs import uri_of
from pipeline.interop.hico_writer import hico_image
from pipeline.interop.json_writer import number, write_list, write_object
from pipeline.interop.run_rows import Tally
from storage.atomic import atomic_folder
from storage.errors import FatalError


class AnnotationImages:
    """Yields the records of a source with their file names, and counts in `tally` what a format can't represent.

    Annotations are read twice: first for the names, which need ids, and then to write them.
    """

    def __init__(self, source: DataSource, tally: Tally) -> None:
        """Reads all annotations once. Raises `FatalError` without an image, or for relative boxes of unknown sizes."""
        self.source, self.tally = source, tally
        objects: set[str] = set()
        predicates: set[str] = set()
        with_object: set[str] = set()
        ids = array("q")
        images = 0
        reader = open_annotations(source)
        for record in reader.annotations():
            if (record.width, record.height) == (1, 1):
                raise FatalError(
                    f"{source.annotations}: boxes are shares of images of unknown size; add image_data, a file with "
                    "images' sizes"
                )
            images += 1
            objects.update(box.category for box in record.boxes)
            predicates.update(relation.predicate for relation in record.relations)
            with_object.update(relation.predicate for relation in record.relations if relation.object != NO_OBJECT)
            ids.extend(box.source_id for box in record.boxes)
            tally.note_all(record.rejects)
        tally.note_all(reader.rejects)
        if not images:
            raise FatalError(f"{source.annotations}: no usable image ({'; '.join(tally.counts) or 'it lists none'})")
        coco = {name: number for number, name in COCO_CATEGORIES.items()}
        self.objects = coco if objects <= coco.keys() else _numbered(reader.objects, objects)
        """Object name → id: COCO's own ids if all names are COCO's, else 1, 2, ... in the order of the source."""
        self.predicates = _numbered(reader.predicates, predicates)
        """Predicate → id, from 1."""
        self.with_object = frozenset(with_object)
        """Predicates that have an object in some relation."""
        self.keeps_ids = min(ids, default=0) > 0 and len(set(ids)) == len(ids)
        """Whether all box ids are positive and unique."""

    def __iter__(self) -> Iterator[tuple[ImageRecord, str]]:
        for record in open_annotations(self.source).annotations():
            self.tally.wrote["images"] += 1
            yield record, uri_of(record.path, self.source.images)

    def without_crowds(self, record: ImageRecord) -> tuple[list[Box], list[AnnotatedRelation]]:
        """Returns the boxes that are not crowds, and the relations between them, re-indexed."""
        usable = [index for index, box in enumerate(record.boxes) if not box.crowd]
        places = {index: place for place, index in enumerate(usable)}
        relations = []
        for relation in record.relations:
            if relation.object == NO_OBJECT:
                self.tally.note("relation without object")
            elif relation.subject not in places or relation.object not in places:
                self.tally.note("relation of a crowd box")
            else:
                relations.append(relation._replace(subject=places[relation.subject], object=places[relation.object]))
        self.tally.note("crowd box", len(record.boxes) - len(usable))
        self.tally.wrote.update({"boxes": len(usable), "relations": len(relations)})
        return [record.boxes[index] for index in usable], relations


def size_fields(record: ImageRecord) -> dict[str, int]:
    """Returns width and height as fields of an image; empty if they are unknown."""
    return {} if record.width is None or record.height is None else {"width": record.width, "height": record.height}


def _numbered(stated: Iterable[str], found: set[str]) -> dict[str, int]:
    names = dict.fromkeys(stated)
    return {name: number for number, name in enumerate((*names, *sorted(found - names.keys())), start=1)}


def write_hico_annotations(images: AnnotationImages, folder: Path) -> None:
    """Writes annotation files as `annotations.json`, `verbs.json` and `objects.json`."""
    write_list(folder / "annotations.json", _hico_images(images))
    write_object(folder / "objects.json", images.objects.items())
    write_object(folder / "verbs.json", images.predicates.items())


def _hico_images(images: AnnotationImages) -> Iterator[dict[str, Any]]:
    for record, uri in images:
        boxes, relations = images.without_crowds(record)
        yield hico_image(
            {"file_name": uri, "img_id": record.image_id, **size_fields(record)},
            [((box.x, box.y, box.w, box.h), images.objects[box.category]) for box in boxes],
            [(each.subject, images.predicates[each.predicate], each.object) for each in relations],
        )


PERSON = "person"
_ROLES = ("obj", "instr")


@dataclass
class _Action:
    """One action. It has a row for each person in the dataset, and more if a person does it to several objects."""

    roles: list[str]
    people: array[int] = field(default_factory=lambda: array("q"))
    images: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    objects: list[array[int]] = field(default_factory=list)
    """Annotation ids by role, 0 for none."""

    def add(self, person: int, image_id: int, label: int, objects: Sequence[int]) -> None:
        self.people.append(person)
        self.images.append(image_id)
        self.labels.append(label)
        for role, target in zip(self.objects, objects, strict=True):
            role.append(target)

    def as_json(self, name: str) -> dict[str, Any]:
        """The entry in the file. `role_object_id` lists the people, then the objects role by role."""
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

    A predicate such as "hold obj" or "cut instr" is an action with that role. Other predicates get role "obj", or none
    if no relation with them has an object. Relations whose subject is not a person are counted as lost.
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
    """Adds an image's rows to all actions, for each person in it."""
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
            # The n-th objects of all roles share a row; a person without objects still has one.
            for place in range(max([1, *map(len, columns)])):
                targets = [column[place] if place < len(column) else 0 for column in columns]
                each.add(ids[index], record.image_id, int(found is not None), targets)


def write_visual_genome_annotations(images: AnnotationImages, folder: Path) -> None:
    """Writes `relationships.json`, `objects.json` and `image_data.json`, with object ids from 1."""
    sizes: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    write_list(folder / "relationships.json", _relationships(images, sizes, objects))
    write_list(folder / "objects.json", objects)
    write_list(folder / "image_data.json", sizes)


def _relationships(
    images: AnnotationImages, sizes: list[dict[str, Any]], objects: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yields the relations of each image, and adds its size and objects to their lists."""
    following = 1
    for record, uri in images:
        boxes, relations = images.without_crowds(record)
        images.tally.note("file name (images are named by their ids)", int(uri != f"{record.image_id}.jpg"))
        items = [
            {"object_id": key, "names": [box.category], **{side: number(getattr(box, side)) for side in "xywh"}}
            for key, box in enumerate(boxes, start=following)
        ]
        following += len(items)
        sizes.append({"image_id": record.image_id, **size_fields(record)})
        objects.append({"image_id": record.image_id, "objects": items})
        yield {
            "image_id": record.image_id,
            "relationships": [
                {"predicate": each.predicate, "subject": items[each.subject], "object": items[each.object]}
                for each in relations
            ],
        }


TARGETS: dict[str, Callable[[AnnotationImages, Path], None]] = {
    "hico_det": write_hico_annotations,
    "vcoco": write_vcoco_annotations,
    "visual_genome": write_visual_genome_annotations,
}
"""The formats to write. HOI-A has the layout of `hico_det`."""


def convert_annotations(
    source_format: str, annotations: Path, target_format: str, out: Path, files: Mapping[str, Path] | None = None
) -> Tally:
    """Writes annotations in the layout of `target_format` to the new folder `out`. Returns what was written and lost.

    `hico_det`: annotations.json, verbs.json, objects.json. `vcoco`: vcoco.json, instances.json. `visual_genome`:
    relationships.json, objects.json, image_data.json. Our readers read all of them. `files`: further source files, by
    field. Raises `FatalError` for unusable files, an unknown format, and an existing `out`.
    """
    if target_format not in TARGETS:
        raise FatalError(f"no target format {target_format!r}; the formats are {', '.join(TARGETS)}")
    if out.exists():
        raise FatalError(f"{out} already exists; name a new folder, or remove it")
    source = annotation_source(source_format, annotations, files or {})
    if not source.missing_files() and (unreadable := source.unreadable()):
        raise FatalError(f"annotations ({source_format}): {'; '.join(unreadable)}")
    tally = Tally()
    images = AnnotationImages(source, tally)
    with atomic_folder(out, replace=False) as folder:
        TARGETS[target_format](images, folder)
    return tally
