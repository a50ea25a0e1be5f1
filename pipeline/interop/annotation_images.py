"""The images of annotation files, which converters read twice: for the names that need ids, and to write them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.data.datasets.record import NO_OBJECT, Box, GivenRelation, ImageRecord
from pipeline.data.datasets.record_index import open_annotations
from pipeline.data.datasets.source import DataSource
from pipeline.data.images.refs import uri_of
from pipeline.interop.run_rows import Tally
from storage.errors import FatalError


class AnnotationImages:
    """Yields the records of a source with their file names, and counts in `tally` what a layout can't hold."""

    def __init__(self, source: DataSource, tally: Tally) -> None:
        """Reads all annotations once. Raises `FatalError` if there is no image, or boxes are shares of unknown sizes."""
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
                    f"{source.annotations}: boxes are shares of images of unknown size; add image_data, a file with the "
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
        """Object name → id: COCO's own ids if all names are COCO's, else 1, 2, ... in the order of the source"""
        self.predicates = _numbered(reader.predicates, predicates)
        """Predicate → id, from 1"""
        self.with_object = frozenset(with_object)
        """Predicates that have an object in some relation"""
        self.keeps_ids = min(ids, default=0) > 0 and len(set(ids)) == len(ids)
        """Whether every box has an id of its own"""

    def __iter__(self) -> Iterator[tuple[ImageRecord, str]]:
        for record in open_annotations(self.source).annotations():
            self.tally.wrote["images"] += 1
            yield record, uri_of(record.path, self.source.images)

    def without_crowds(self, record: ImageRecord) -> tuple[list[Box], list[GivenRelation]]:
        """Returns the boxes that are no crowds, and the relations between two of them, re-indexed."""
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
    """Returns width and height as fields of an image; none if they are unknown."""
    return {} if record.width is None or record.height is None else {"width": record.width, "height": record.height}


def _numbered(stated: Iterable[str], found: set[str]) -> dict[str, int]:
    names = dict.fromkeys(stated)
    return {name: number for number, name in enumerate((*names, *sorted(found - names.keys())), start=1)}
