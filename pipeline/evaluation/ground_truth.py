"""The ground truth of a test set as columns, read from its annotation files or from rows of the `images` table."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.datasets.annotations import as_id
from pipeline.data.datasets.coco_panoptic import segment_ids
from pipeline.data.datasets.json_stream import stream_lists
from pipeline.data.datasets.psg import EXPECTED
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import NO_OBJECT, Box
from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import annotation_source
from pipeline.data.images.opening import BadImage
from pipeline.data.images.refs import ImageFolder, uri_of
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.relations import Floats, Integers, Relations
from pipeline.runtime.stage import Rejected
from storage.errors import FatalError
from tagger.english.predicates import canonical


@dataclass(frozen=True)
class GroundTruth:
    """What is true in I images. Images without any relation are among them."""

    objects: tuple[str, ...]
    """Object names: the dataset's own by id, then others that boxes have, sorted"""
    predicates: tuple[str, ...]
    """Predicate names, in the same order"""
    image_ids: Integers
    """I"""
    uris: tuple[str, ...]
    """I file names, relative to the set's folder of images"""
    sizes: Integers
    """I×2: width and height in pixels, 0 where unknown; 1 and 1 if boxes are shares of an image of unknown size"""
    relations: Relations
    boxes: Detections
    """All boxes, also those in no relation, by ascending image"""
    box_images: Integers
    """The position of each box's image"""
    ends: Integers
    """R×2: the ids in the dataset of the boxes that each relation is between; -1 where unknown"""
    rejects: tuple[Rejected, ...] = ()
    """What the files state and is not part of the truth, with reasons"""

    @classmethod
    def read(cls, reader: Reader) -> GroundTruth:
        """Reads a set's annotations, without its images.

        Predicates are the dataset's own, as public benchmarks score them. Inverted and non-finite boxes are excluded,
        with their relations and a reason. Raises `AnnotationError` for unusable files, `FatalError` without images.
        """
        columns = _Columns()
        for record in reader.annotations():
            uri = uri_of(record.path, reader.source.images)
            columns.add(record.image_id, uri, (record.width, record.height), record.boxes, record.relations)
            columns.rejects += record.rejects
        columns.rejects += reader.rejects
        if not columns.image_ids:
            reasons = "; ".join(sorted({reject.reason for reject in columns.rejects})) or "it lists none"
            raise FatalError(f"{reader.source.annotations}: no usable image ({reasons})")
        return columns.joined(reader.objects, reader.predicates)

    @classmethod
    def open(cls, format_name: str, annotations: Path, files: Mapping[str, Path] | None = None) -> GroundTruth:
        """Reads annotation files in a format of `DataSource`, and only "test" of a file of several splits (VG150).

        `files`: further files by field, e.g. {"verbs": path}. Raises `FatalError`, also for files that are missing, not
        used by the format, or of another kind.
        """
        source = annotation_source(format_name, annotations, files or {}).model_copy(update={"split": "test"})
        reader = open_source(source, with_images=False)
        if unreadable := source.unreadable():
            raise FatalError(f"ground truth ({format_name}): {'; '.join(unreadable)}")
        return cls.read(reader)

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> GroundTruth:
        """Takes the truth from rows of the `images` table, with canonical predicates, which merge synonyms.

        Two wordings of one relation ("hold", "is holding") count once.

        Relations whose predicate has no word don't count, as they are not labels to train on either.
        """
        columns = _Columns()
        for row in rows:
            boxes = [Box(**box) for box in row["boxes"]]
            named = ((each["subject"], canonical(each["predicate"]), each["object"]) for each in row["relations"])
            relations = list(dict.fromkeys(relation for relation in named if relation[1]))
            columns.add(row["image_id"], row["uri"], (row["width"], row["height"]), boxes, relations)
        return columns.joined((), ())

    def __len__(self) -> int:
        return len(self.image_ids)

    def with_sizes(self, sizes: Floats) -> GroundTruth:
        """Fills in unknown image sizes in pixels (I×2, 0 where still unknown), and scales boxes that are shares."""
        new = np.asarray((sizes > 0).all(axis=1) & (self.sizes <= 1).all(axis=1))
        shares = np.asarray(new & (self.sizes == 1).all(axis=1))
        scale = np.where(shares[:, None], np.tile(sizes, 2), 1.0)
        relations, boxes = self.relations, self.boxes
        ends = {
            f"{end}_boxes": getattr(relations, f"{end}_boxes") * scale[relations.image] for end in ("subject", "object")
        }
        return replace(
            self,
            sizes=np.where(new[:, None], sizes, self.sizes).astype(np.int64),
            relations=replace(relations, **ends),
            boxes=replace(boxes, boxes=boxes.boxes * scale[self.box_images]),
        )

    def with_masks(self, annotations: Path, folder: ImageFolder) -> GroundTruth:
        """Adds the masks of both ends of each relation, from the PNGs that PSG's annotations name within a folder.

        Raises `FatalError` for a PNG that can't be read, is of another size than the image, or lacks a segment.
        """
        from pycocotools.mask import encode

        masks = np.full((len(self.relations), 2), None, object)
        for _, entry in stream_lists(annotations, EXPECTED, ("data",)):
            image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
            position = -1 if image_id is None else self.by_id.get(image_id, -1)
            own = slice(*np.searchsorted(self.relations.image, [position, position + 1]))
            places = np.unique(self.ends[own])
            if not len(places):
                continue
            try:
                ids = [int(each["id"]) for each in entry["segments_info"]]
                pixels = segment_ids(folder, entry["pan_seg_file_name"])
                if pixels.shape != (height_width := tuple(self.sizes[position, ::-1])):
                    raise BadImage("another size than the image", f"{pixels.shape}, not {height_width}")
                for place in places.tolist():
                    if not (inside := pixels == ids[place]).any():
                        raise BadImage("segment without a pixel", str(ids[place]))
                    # pycocotools encodes by columns.
                    masks[own][self.ends[own] == place] = encode(np.asfortranarray(inside, np.uint8))
            except (BadImage, KeyError, IndexError, TypeError, ValueError) as error:
                raise FatalError(
                    f"{annotations}: image {self.uris[position]}: its masks can't be read ({error!r}); `segments_info` "
                    "must list the segments in the order of `annotations`, and --masks name the folder of "
                    "panoptic_val2017"
                ) from error
        return replace(self, relations=replace(self.relations, masks=masks))

    @cached_property
    def by_id(self) -> Mapping[int, int]:
        """Image id → position."""
        return {image_id: position for position, image_id in enumerate(self.image_ids.tolist())}

    @cached_property
    def by_uri(self) -> Mapping[str, int]:
        """File name, with its folder and, if no other image has it, without → position."""
        alone: dict[str, int] = {}
        shared: set[str] = set()
        for position, uri in enumerate(self.uris):
            name = uri.rpartition("/")[2]
            if alone.setdefault(name, position) != position:
                shared.add(name)
        names = {name: position for name, position in alone.items() if name not in shared}
        return names | {uri: position for position, uri in enumerate(self.uris)}


class _Columns:
    """Gathers images one by one. Names get numbers as they occur and their final ones at the end."""

    def __init__(self) -> None:
        # Arrays, since lists of Python's numbers would take several times the memory.
        self.image_ids: array[int] = array("q")
        self.uris: list[str] = []
        self.rejects: list[Rejected] = []
        self._sizes: array[int] = array("q")
        self._objects: dict[str, int] = {}
        self._predicates: dict[str, int] = {}
        self._box_numbers, self._box_labels, self._box_images = array("d"), array("q"), array("q")
        self._crowds, self._ids = array("b"), array("q")
        self._ends, self._relation_images, self._relation_predicates = array("q"), array("q"), array("q")

    def add(
        self,
        image_id: int,
        uri: str,
        size: tuple[int | None, int | None],
        boxes: Sequence[Box],
        relations: Iterable[tuple[int, str, int]],
    ) -> None:
        """Adds an image. Relations: subject's box index, predicate, object's."""
        position, first = len(self.image_ids), len(self._box_labels)
        self.image_ids.append(image_id)
        self.uris.append(uri)
        self._sizes.extend((size[0] or 0, size[1] or 0))
        places: list[int | None] = []
        for box in boxes:
            category, x, y, w, h, crowd, _ = box
            if not (math.isfinite(x + y + w + h) and w >= 0 and h >= 0):
                fault = "box inverted" if math.isfinite(x + y + w + h) else "box not finite"
                self.rejects.append(Rejected(image_id, fault, box.written()))
                places.append(None)
                continue
            places.append(len(self._box_labels))
            self._box_numbers.extend((x, y, x + w, y + h))
            self._box_labels.append(self._objects.setdefault(category, len(self._objects)))
            self._crowds.append(crowd)
        self._box_images.extend([position] * (len(self._box_labels) - first))
        for subject, predicate, target in relations:
            ends = places[subject], NO_OBJECT if target == NO_OBJECT else places[target]
            if ends[0] is None or ends[1] is None:
                self.rejects.append(Rejected(image_id, "relation without box", predicate))
                continue
            self._ends.extend((ends[0], ends[1]))
            self._ids.extend(boxes[end].source_id if end != NO_OBJECT else -1 for end in (subject, target))
            self._relation_images.append(position)
            self._relation_predicates.append(self._predicates.setdefault(predicate, len(self._predicates)))

    def joined(self, objects: Sequence[str], predicates: Sequence[str]) -> GroundTruth:
        """The truth, with the dataset's own names first."""
        object_names = _ordered(objects, self._objects)
        predicate_names = _ordered(predicates, self._predicates)
        images = len(self.image_ids)
        boxes = np.array(self._box_numbers, np.float64).reshape(-1, 4)
        labels = _renumbered(self._objects, object_names)[_integers(self._box_labels)]
        ends = _integers(self._ends).reshape(-1, 2)
        subject, target = ends[:, 0], ends[:, 1]
        with_object = target != NO_OBJECT
        object_boxes = np.full((len(ends), 4), np.nan)
        object_boxes[with_object] = boxes[target[with_object]]
        object_labels = np.full(len(ends), NO_OBJECT, np.int64)
        object_labels[with_object] = labels[target[with_object]]
        relations = Relations(
            images=images,
            image=_integers(self._relation_images),
            subject_boxes=boxes[subject],
            object_boxes=object_boxes,
            subject_labels=labels[subject],
            object_labels=object_labels,
            predicates=_renumbered(self._predicates, predicate_names)[_integers(self._relation_predicates)],
        )
        return GroundTruth(
            objects=object_names,
            predicates=predicate_names,
            image_ids=_integers(self.image_ids),
            uris=tuple(self.uris),
            sizes=_integers(self._sizes).reshape(-1, 2),
            relations=relations,
            boxes=Detections(boxes, labels, crowd=np.array(self._crowds, bool)),
            box_images=_integers(self._box_images),
            ends=_integers(self._ids).reshape(-1, 2),
            rejects=tuple(self.rejects),
        )


def _ordered(own: Iterable[str], found: Mapping[str, int]) -> tuple[str, ...]:
    first = dict.fromkeys(own)
    return (*first, *sorted(found.keys() - first.keys()))


def _renumbered(found: Mapping[str, int], names: Sequence[str]) -> Integers:
    """Number of a name as it occurred → its place in `names`."""
    places = {name: place for place, name in enumerate(names)}
    return np.array([places[name] for name in found], np.int64)


def _integers(numbers: array[int]) -> Integers:
    return np.array(numbers, np.int64)
