"""Reads Visual Genome: free-text objects and relations, cleaned as in the authors' preprocessing (docs/datasets.md)."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pipeline.data.datasets.annotations import (
    NO_IMAGE,
    as_four_numbers,
    as_id,
    as_object,
    as_size,
    opening,
    read_json,
    read_text,
    readable,
    rows,
    shown,
)
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import AnnotatedRelation, Box, Draft, ImageRecord, Unusable, overlap
from pipeline.data.datasets.source import DataSource
from pipeline.data.datasets.spill import Spill
from pipeline.data.images.refs import ImageRef
from pipeline.runtime.stage import Rejected

RELATIONSHIPS = "relationships: a list of {image_id, relationships: [{predicate, subject, object}, ...]}"
OBJECTS = "objects: a list of {image_id, objects: [{object_id, names, x, y, w, h}, ...]}"
IMAGE_DATA = "image_data: a list of {image_id, width, height}"
_ALIASES = "comma-separated lines"
NEAR_IOU = 0.7
MAX_RELATIONS = 100
_FOLDERS = ("", "VG_100K/", "VG_100K_2/")

_Size = tuple[int | None, int | None]
"""Width and height; None if the files do not state them."""


class VisualGenomeReader(Reader):
    """Yields images in the order of image_data if given, otherwise of relationships.

    Applies the authors' steps, here with the reasons of their rejects: names and predicates are lower-cased; only the
    first of several names is kept ("further name"); exact duplicates are removed ("relation duplicate"), then near ones
    ("relation near-duplicate"; aliases only affect the comparison), then those after an image's first 100 ("relation
    above 100"). Boxes are those of relations, then the remaining `objects` if given. Images may be in one folder or in
    VG_100K and VG_100K_2.
    """

    files: ClassVar = {
        "annotations": "JSON", "image_data": "JSON", "objects": "JSON",
        "predicate_aliases": "text", "object_aliases": "text",
    }  # fmt: skip

    def __init__(self, source: DataSource, scratch: Path | None = None) -> None:
        super().__init__(source, scratch)
        self._predicate_aliases = _aliases(source.predicate_aliases)
        self._object_aliases = _aliases(source.object_aliases)

    def _records(self) -> Iterator[ImageRecord]:
        with closing(Spill(self.scratch)) as relations, closing(Spill(self.scratch)) as objects:
            sizes = self._read_image_data()
            self._spill_relationships(sizes, relations)
            self._spill_objects(sizes, objects)
            for image_id, size in sizes.items():
                yield self._record(Draft(image_id), size, relations, objects)

    def _record(self, image: Draft, size: _Size, relations: Spill, objects: Spill) -> ImageRecord:
        for relation in relations.of(image.image_id):
            with image.rejecting(relation):
                self._add_relation(image, relation)
        for item in objects.of(image.image_id):
            if self._place(image, item) is None:
                image.reject("box malformed", item)
        image.relations = self._deduplicated(image)
        return self.drafted(image, super().place(f"{image.image_id}.jpg"), size)

    def _completed(self, record: ImageRecord) -> ImageRecord:
        return replace(record, path=self.place(record.path.name))

    def place(self, name: str) -> ImageRef:
        """The location in the first folder that has the image; in the first folder of all if none has it."""
        places = [super(VisualGenomeReader, self).place(f"{folder}{name}") for folder in _FOLDERS]
        return next((place for place in places if place.is_file()), places[0])

    def name(self, record: ImageRecord) -> str:
        """The file name without its folder, because images may move between the official folders."""
        return record.path.name

    def _read_image_data(self) -> dict[int, _Size]:
        """Image id → its size; empty if image_data is not given."""
        sizes: dict[int, _Size] = {}
        path = self.source.image_data
        for image_id, entry in self._entries(path, IMAGE_DATA) if path else ():
            if image_id in sizes:
                self.rejects.append(Rejected(image_id, "duplicate image id", shown(entry)))
            else:
                sizes[image_id] = as_size(entry.get("width")), as_size(entry.get("height"))
        return sizes

    def _spill_relationships(self, sizes: dict[int, _Size], spill: Spill) -> None:
        """Spills relationships to disk. Without image_data, adds their images to `sizes`."""
        closed = self.source.image_data is not None
        seen: set[int] = set()
        for image_id, entry in self._entries(self.annotation_file, RELATIONSHIPS):
            if closed and image_id not in sizes:
                self.rejects.append(Rejected(image_id, "relations of unknown image", ""))
            elif image_id in seen or not isinstance(entry.get("relationships"), list):
                reason = "duplicate image id" if image_id in seen else "relations malformed"
                self.rejects.append(Rejected(image_id, reason, shown(entry)))
            else:
                seen.add(image_id)
                sizes.setdefault(image_id, (None, None))
                for relation in entry["relationships"]:
                    spill.add(image_id, relation)

    def _spill_objects(self, sizes: Container[int], spill: Spill) -> None:
        path = self.source.objects
        for image_id, entry in self._entries(path, OBJECTS) if path else ():
            if image_id not in sizes or not isinstance(entry.get("objects"), list):
                reason = "objects malformed" if image_id in sizes else "annotations of unknown image"
                self.rejects.append(Rejected(image_id, reason, shown(entry)))
            else:
                for item in entry["objects"]:
                    spill.add(image_id, item)

    def _entries(self, path: Path, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for entry in _rows(path, expected):
            found = as_object(entry)
            image_id = as_id(found.get("image_id", found.get("id")))
            if image_id is None:
                self.rejects.append(Rejected(NO_IMAGE, "image id not an integer", shown(entry)))
            else:
                yield image_id, found

    def _add_relation(self, image: Draft, entry: Any) -> None:
        found = as_object(entry)
        predicate = found.get("predicate")
        if not isinstance(predicate, str) or not predicate.strip():
            raise Unusable("relation malformed")
        subject, target = self._place(image, found.get("subject")), self._place(image, found.get("object"))
        if subject is None or target is None:
            raise Unusable("relation without box")
        image.relations.append(AnnotatedRelation(subject, " ".join(readable(predicate).lower().split()), target))

    def _place(self, image: Draft, item: Any) -> int | None:
        """The index of an object's box, which is added if its object id is new; None when it has no name or no box."""
        found = as_object(item)
        first, *further_names = _names(found)
        numbers = as_four_numbers([found.get(side) for side in "xywh"])
        if not isinstance(first, str) or not first.strip() or numbers is None:
            return None
        name, object_id = " ".join(readable(first).lower().split()), as_id(found.get("object_id"))
        if object_id is not None and object_id in image.places:
            return image.places[object_id]
        for further in further_names:
            image.reject("further name", f"{name}: {further}")
        return image.add(Box(name, *numbers, False, -1 if object_id is None else object_id), object_id)

    def _deduplicated(self, image: Draft) -> list[AnnotatedRelation]:
        kept: list[AnnotatedRelation] = []
        exact: set[AnnotatedRelation] = set()
        by_names: dict[tuple[str, str, str], list[AnnotatedRelation]] = {}
        for relation in image.relations:
            subject, target = image.boxes[relation.subject], image.boxes[relation.object]
            names = (
                self._object_aliases.get(subject.category, subject.category),
                self._predicate_aliases.get(relation.predicate, relation.predicate),
                self._object_aliases.get(target.category, target.category),
            )
            same_names = by_names.setdefault(names, [])
            if relation in exact:
                image.reject("relation duplicate", _text(image, relation))
            elif any(_is_near(image, relation, other) for other in same_names):
                image.reject("relation near-duplicate", _text(image, relation))
            elif len(kept) == MAX_RELATIONS:
                image.reject("relation above 100", _text(image, relation))
            else:
                exact.add(relation)
                same_names.append(relation)
                kept.append(relation)
        return kept


def _rows(path: Path, expected: str) -> Iterator[Any]:
    """Yields the entries of a list, or the only entry of a file that holds a single image."""
    if opening(path, expected) == "{":
        content = read_json(path, expected)
        yield from rows([content] if "image_id" in content else content, path, expected)
    else:
        yield from stream_rows(path, expected)


def _names(item: dict[str, Any]) -> list[Any]:
    """The names of an object, at least one, as the file states them."""
    names = item.get("names")
    return names if isinstance(names, list) and names else [item.get("name", names)]


def _is_near(image: Draft, a: AnnotatedRelation, b: AnnotatedRelation) -> bool:
    """Whether both boxes of two relations nearly coincide. As in the authors' code, a box includes its last pixel."""
    subjects = overlap(image.boxes[a.subject], image.boxes[b.subject], pixel=1.0)
    return subjects >= NEAR_IOU and overlap(image.boxes[a.object], image.boxes[b.object], pixel=1.0) >= NEAR_IOU


def _text(image: Draft, relation: AnnotatedRelation) -> str:
    return f"{image.boxes[relation.subject].category} {relation.predicate} {image.boxes[relation.object].category}"


def _aliases(path: Path | None) -> dict[str, str]:
    """Word → first word of its group, from lines of comma-separated equivalents. Raises `AnnotationError`.

    A word in several groups belongs to the first that lists it.
    """
    first: dict[str, str] = {}
    for line in read_text(path, _ALIASES).splitlines() if path is not None else ():
        words = [" ".join(word.lower().split()) for word in line.split(",")]
        for word in words:
            first.setdefault(word, words[0])
    return first
