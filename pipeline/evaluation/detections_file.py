"""Reads detections, whoever made them, as relations over a ground truth.

Formats: our table `DETECTIONS` as Parquet, or as JSON with one object a line or in a list; lists of pairs
{image, box_h, box_o, object_coco80, verb, score}; and lists of images as RLIPv2's, QPIC's and their relatives' networks
give them, {boxes, labels, verb_scores, sub_ids, obj_ids}. Boxes of the latter two are (left, top, right, bottom).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import as_four_numbers, as_id, shown
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.evaluation.detection_findings import DetectionFindings, DetectionsError, Fault, Faults
from pipeline.evaluation.ground_truth import NO_OBJECT, GroundTruth
from pipeline.evaluation.interactions import Floats, Integers
from pipeline.evaluation.labelled_boxes import LabelledBoxes
from pipeline.evaluation.relations import Relations
from storage.errors import FatalError
from storage.tables import DETECTIONS
from tagger.english.predicates import canonical

EXPECTED = (
    "detections: our table as .parquet, JSON with one image a line or in a list {image_id, uri, boxes, pairs}, a JSON list of "
    "pairs {image, box_h, box_o, object_coco80, verb, score}, or a JSON list of images {boxes, labels, verb_scores, sub_ids, "
    "obj_ids} with image_id or file_name, or in the order of the ground truth"
)
_BATCH = 1024
"""Images that are converted to columns together."""
_PAIR_FIELDS = ("image", "box_h", "box_o", "object_coco80", "verb", "score")
_DENSE_FIELDS = ("boxes", "labels", "verb_scores", "sub_ids", "obj_ids")
_UNKNOWN, _AGAIN, _MISMATCH = -1, -2, -3
"""Places of images that the ground truth lacks, that occur again, and whose id and name are those of different images."""


@dataclass(frozen=True)
class DetectionSet:
    """Detections over the images and names of a ground truth. `boxes` is empty for formats without scores of boxes."""

    relations: Relations
    boxes: LabelledBoxes
    findings: DetectionFindings


def read_detections(
    path: Path,
    truth: GroundTruth,
    *,
    allow_missing: bool = False,
    drop_faulty: bool = False,
    per_image: int = 100,
    allowed: NDArray[np.bool_] | None = None,
    object_names: Sequence[str] | None = None,
) -> DetectionSet:
    """Reads a file of detections.

    Relations with an inverted box are noted, and scored as the public evaluators do: such a box overlaps no true one.
    Images are found by id, else by file name; names by their text, in which case and underscores do not count, and
    predicates also by their canonical form, which a run's are in, where only one of the truth has it. With
    `allow_missing`, images that the file lacks have no detections; with `drop_faulty`, faulty rows are left out and
    counted. Both are an error otherwise.

    Only the format with `verb_scores` for every pair and predicate uses the rest: the `per_image` highest scores of an
    image are read, of those that `allowed` (objects × predicates) permits; `object_names` are the names that its labels
    count (default: those of the ground truth, or COCO's 80 if the ground truth has just these).

    If boxes of the ground truth are shares of the image, detections are divided by the width and height of their row.
    Raises `DetectionsError`, and `FatalError` for a file of another kind or names that do not fit at all.
    """
    found = _Found(path, truth)
    found.read(per_image, allowed, object_names)
    return found.over_truth(allow_missing, drop_faulty)


@dataclass
class _Columns:
    """Pairs and boxes as columns. `row` counts the images of the file; codes count the names met so far."""

    row: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    subject_boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    object_boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    subjects: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    objects: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    predicates: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    scores: Floats = field(default_factory=lambda: np.zeros(0))
    box_row: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    labels: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    box_scores: Floats = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def joined(cls, parts: Sequence[_Columns]) -> _Columns:
        """All parts, in their order."""
        names = [each.name for each in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in (cls(), *parts)]) for name in names})


class _Found:
    """The content of one file, gathered in batches."""

    def __init__(self, path: Path, truth: GroundTruth) -> None:
        self._path, self._truth = path, truth
        self._parts: list[_Columns] = []
        self._images: list[tuple[int | None, str | None]] = []
        self._sizes: list[tuple[float, float]] = []
        self._objects: dict[str, int] = {}
        self._predicates: dict[str, int] = {}
        self._faults = Faults()
        self._noted = Faults()
        self._positional = False

    def read(self, per_image: int, allowed: NDArray[np.bool_] | None, object_names: Sequence[str] | None) -> None:
        """Reads the file, whatever its format."""
        if not self._path.is_file():
            raise FatalError(f"{self._path}: no such file; expected {EXPECTED}")
        with self._path.open("rb") as file:
            head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        if not head:
            raise FatalError(f"{self._path}: is empty; expected {EXPECTED}")
        if head[:4] == b"PAR1":
            self._read_parquet()
        elif head[:1] == b"{":
            self._read_rows(self._lines())
        elif head[:1] == b"[":
            self._read_list(per_image, allowed, object_names)
        else:
            kind = (
                "is a pickle, which can run code when it is read; write it as JSON"
                if head[:1] == b"\x80"
                else "is none"
            )
            raise FatalError(f"{self._path}: {kind}; expected {EXPECTED}")
        if not self._images:
            raise FatalError(f"{self._path}: holds no image; expected {EXPECTED}")

    def _read_list(self, per_image: int, allowed: NDArray[np.bool_] | None, object_names: Sequence[str] | None) -> None:
        entries = stream_rows(self._path, EXPECTED)
        first = next(entries, None)
        if first is None:
            return
        keys = first.keys() if isinstance(first, dict) else set()
        everything = chain([first], entries)
        if keys >= set(_DENSE_FIELDS):
            self._read_dense(everything, per_image, allowed, object_names)
        elif keys >= set(_PAIR_FIELDS):
            self._read_pairs(everything)
        elif {"boxes", "pairs"} <= keys:
            self._read_rows((f"image {number}", entry) for number, entry in enumerate(everything))
        else:
            raise FatalError(f"{self._path}: its first entry is {shown(first)}; expected {EXPECTED}")

    def _read_parquet(self) -> None:
        try:
            file = pq.ParquetFile(self._path)
            names = set(file.schema_arrow.names)
            lacking = [name for name in ("image_id", "uri", "boxes", "pairs") if name not in names]
            if lacking:
                raise FatalError(f"{self._path}: has no column {', '.join(lacking)}; expected {EXPECTED}")
            for batch in file.iter_batches(_BATCH):
                table = pa.Table.from_batches([batch])
                for name in ("width", "height"):
                    if name not in names:
                        table = table.append_column(name, pa.nulls(len(table), pa.int32()))
                self._add(table.select(DETECTIONS.names).cast(DETECTIONS))
        except (pa.ArrowException, OSError) as error:
            raise FatalError(
                f"{self._path}: can't be read as a table of detections ({error}); expected {EXPECTED}"
            ) from error

    def _lines(self) -> Iterator[tuple[str, Any]]:
        with self._path.open(encoding="utf-8-sig") as file:
            try:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FatalError(
                    f"{self._path}: line {number} is not valid JSON ({error}), so the file is damaged or incomplete; "
                    f"expected {EXPECTED}"
                ) from error

    def _read_rows(self, entries: Iterator[tuple[str, Any]]) -> None:
        """Reads rows of `DETECTIONS`, each with words on where it stands."""
        while batch := list(islice(entries, _BATCH)):
            for where, entry in batch:
                if not isinstance(entry, dict) or not {"boxes", "pairs"} <= entry.keys():
                    raise FatalError(
                        f"{self._path}: {where} has no boxes and pairs: {shown(entry)}; expected {EXPECTED}"
                    )
            try:
                self._add(pa.Table.from_pylist([entry for _, entry in batch], schema=DETECTIONS))
            except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
                span = f"{batch[0][0]} to {batch[-1][0]}"
                raise FatalError(
                    f"{self._path}: {span}: values of another type ({error}); expected {EXPECTED}"
                ) from error

    def _add(self, table: pa.Table) -> None:
        """Adds rows of `DETECTIONS`."""
        table = table.combine_chunks()
        first_row = len(self._images)
        self._images += zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True)
        size = (table[name].to_numpy().astype(np.float64).tolist() for name in ("width", "height"))
        self._sizes += zip(*size, strict=True)
        box_counts, boxes = _flattened(table["boxes"])
        pair_counts, pairs = _flattened(table["pairs"])
        rows = np.arange(first_row, first_row + len(table))
        box_row, row = np.repeat(rows, box_counts), np.repeat(rows, pair_counts)
        xywh = np.stack([_numbers(boxes[side]) for side in "xywh"], axis=1).astype(np.float64)
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        labels = _coded(boxes["category"], self._objects)
        counts = np.repeat(box_counts, pair_counts)
        starts = np.repeat(np.cumsum(box_counts) - box_counts, pair_counts)
        ends = [_numbers(pairs[name], -9) for name in ("subject", "object")]
        without = ends[1] == NO_OBJECT
        wrong = (ends[0] < 0) | (ends[0] >= counts) | ~(without | ((ends[1] >= 0) & (ends[1] < counts)))
        self._note("box index out of range", np.flatnonzero(wrong), row)
        kept = ~wrong
        without = without[kept]
        subject, target = (starts[kept] + end[kept] for end in ends)
        target[without] = subject[without]
        object_boxes = corners[target]
        object_boxes[without] = np.nan
        self._parts.append(
            _Columns(
                row=row[kept],
                subject_boxes=corners[subject],
                object_boxes=object_boxes,
                subjects=labels[subject],
                objects=np.where(without, NO_OBJECT, labels[target]),
                predicates=_coded(pairs["predicate"], self._predicates)[kept],
                scores=_numbers(pairs["score"], np.nan).astype(np.float64)[kept],
                box_row=box_row,
                boxes=corners,
                labels=labels,
                box_scores=_numbers(boxes["score"], np.nan).astype(np.float64),
            )
        )

    def _read_pairs(self, entries: Iterable[Any]) -> None:
        """Reads a list of pairs of a person and an object of COCO's 80, with predicates by their place in the truth."""
        names = list(COCO_CATEGORIES.values())
        self._objects = {name: code for code, name in enumerate(names)}
        self._predicates = {name: code for code, name in enumerate(self._truth.predicates)}
        places: dict[str, int] = {}
        numbers, row = [], []
        for position, entry in enumerate(entries):
            found = _pair_of(entry)
            if found is None:
                self._faults.add("pair malformed", 1, [f"entry {position}: {shown(entry)}"])
                continue
            name, numbers_of_pair = found
            row.append(places.setdefault(name, len(places)))
            numbers.append(numbers_of_pair)
        self._images = [(None, name) for name in places]
        self._sizes = [(np.nan, np.nan)] * len(places)
        values = np.array(numbers, np.float64).reshape(-1, 11)
        codes = values[:, 8:10].astype(np.int64)
        known = [
            (codes[:, 0] >= 0) & (codes[:, 0] < len(names)),
            (codes[:, 1] >= 0) & (codes[:, 1] < len(self._predicates)),
        ]
        places_of = np.array(row, np.int64)
        self._note("object class out of range", np.flatnonzero(~known[0]), places_of, codes[:, 0])
        self._note("predicate out of range", np.flatnonzero(known[0] & ~known[1]), places_of, codes[:, 1])
        kept = known[0] & known[1]
        self._parts.append(
            _Columns(
                row=places_of[kept],
                subject_boxes=values[kept, :4],
                object_boxes=values[kept, 4:8],
                subjects=np.full(int(kept.sum()), self._objects["person"]),
                objects=codes[kept, 0],
                predicates=codes[kept, 1],
                scores=values[kept, 10],
            )
        )

    def _read_dense(
        self,
        entries: Iterable[Any],
        per_image: int,
        allowed: NDArray[np.bool_] | None,
        object_names: Sequence[str] | None,
    ) -> None:
        """Reads images with a score for every pair and predicate."""
        truth = self._truth
        coco = tuple(COCO_CATEGORIES.values())
        names = object_names or (coco if set(truth.objects) == set(coco) else truth.objects)
        self._objects = {name: code for code, name in enumerate(names)}
        self._predicates = {name: code for code, name in enumerate(truth.predicates)}
        permitted = None if allowed is None else self._permitted(allowed, names)
        for number, entry in enumerate(entries):
            found = _dense_of(entry)
            if found is None:
                raise FatalError(
                    f"{self._path}: image {number} lacks one of {', '.join(_DENSE_FIELDS)}, or they do not fit"
                )
            size = as_four_numbers([0, 0, *entry["size"]]) if isinstance(entry.get("size"), list) else None
            uri = entry.get("file_name", entry.get("filename", entry.get("uri")))
            self._images.append((as_id(entry.get("image_id")), uri if isinstance(uri, str) else None))
            self._sizes.append((np.nan, np.nan) if size is None else (size[2], size[3]))
            self._parts.append(self._best(number, *found, per_image, permitted))
        if all(image == (None, None) for image in self._images):
            self._positional = True
            if len(self._images) != len(truth):
                raise FatalError(
                    f"{self._path}: its {len(self._images):,} images have neither image_id nor file_name, and the ground truth "
                    f"has {len(truth):,}; add one of them to each"
                )

    def _permitted(self, allowed: NDArray[np.bool_], names: Sequence[str]) -> NDArray[np.bool_]:
        """`allowed` with a row for each of `names`."""
        places = _matched(names, self._truth.objects, None)
        expected = (len(self._truth.objects), len(self._truth.predicates))
        if allowed.shape != expected:
            raise ValueError(f"`allowed` has shape {allowed.shape}, the ground truth's names need {expected}")
        return np.where((places >= 0)[:, None], allowed[places], False)

    def _best(
        self,
        row: int,
        boxes: Floats,
        labels: Integers,
        scores: Floats,
        subjects: Integers,
        objects: Integers,
        per_image: int,
        permitted: NDArray[np.bool_] | None,
    ) -> _Columns:
        """The highest scores of an image."""
        if not len(subjects):
            return _Columns()
        rows = np.full(max(scores.size, len(subjects)), row)
        wrong = (subjects < 0) | (subjects >= len(boxes)) | (objects < 0) | (objects >= len(boxes))
        self._note("box index out of range", np.flatnonzero(wrong), rows)
        subjects, objects, scores = subjects[~wrong], objects[~wrong], scores[~wrong]
        ends = labels[subjects], labels[objects]
        beyond = (np.minimum(*ends) < 0) | (np.maximum(*ends) >= len(self._objects))
        self._note("object class out of range", np.flatnonzero(beyond), rows, np.maximum(*ends))
        subjects, objects, scores = subjects[~beyond], objects[~beyond], scores[~beyond].copy()
        if len(scores) and scores.shape[1] != len(self._predicates):
            raise FatalError(
                f"{self._path}: image {row} scores {scores.shape[1]} predicates, the ground truth has {len(self._predicates)}"
            )
        faulty = ~(np.isfinite(scores) & (scores >= 0))
        self._note("score negative or not finite", np.flatnonzero(faulty), rows, scores.reshape(-1))
        usable = ~faulty if permitted is None else ~faulty & permitted[labels[objects]]
        flat = np.where(usable, scores, -1.0).reshape(-1)
        order = np.argsort(-flat, kind="stable")[:per_image]
        order = order[flat[order] >= 0]
        pair, predicate = order // max(len(self._predicates), 1), order % max(len(self._predicates), 1)
        return _Columns(
            row=np.full(len(order), row),
            subject_boxes=boxes[subjects[pair]],
            object_boxes=boxes[objects[pair]],
            subjects=labels[subjects[pair]],
            objects=labels[objects[pair]],
            predicates=predicate,
            scores=flat[order],
        )

    def over_truth(self, allow_missing: bool, drop_faulty: bool) -> DetectionSet:
        """Brings images and names to those of the truth. Raises `DetectionsError`."""
        truth, columns = self._truth, _Columns.joined(self._parts)
        self._parts = []
        places = np.arange(len(truth)) if self._positional else self._image_places()
        hints = []
        objects = _matched(self._objects, truth.objects, None)
        predicates = _matched(self._predicates, truth.predicates, canonical)
        used = np.union1d(np.union1d(columns.subjects, columns.objects), columns.labels)
        used_names = {
            "object": _chosen(self._objects, used[used >= 0]),
            "predicate": _chosen(self._predicates, np.unique(columns.predicates)),
        }
        for kind, codes, own in (("object", objects, truth.objects), ("predicate", predicates, truth.predicates)):
            given = used_names[kind]
            lacking = [name for name, code in given.items() if codes[code] < 0]
            if given and len(lacking) == len(given):
                raise FatalError(
                    f"{self._path}: none of its {kind} names is one of the ground truth.\n  the file has {_listed(given)}\n"
                    f"  the ground truth has {_listed(own)}"
                )
            if lacking:
                hints.append(f"{kind} names of the file: {_listed(lacking)}; of the ground truth: {_listed(own)}")
        self._to_shares(columns, places)
        image = places[columns.row] if len(places) else columns.row
        ends = _labels(objects, columns.subjects), _labels(objects, columns.objects)
        without = columns.objects == NO_OBJECT
        predicate = predicates[columns.predicates] if len(predicates) else columns.predicates
        kept = image >= 0
        for reason, wrong in (
            ("unknown object name", (ends[0] < 0) | ((ends[1] < 0) & ~without)),
            ("unknown predicate name", predicate < 0),
            ("score negative or not finite", ~(np.isfinite(columns.scores) & (columns.scores >= 0))),
            ("box not finite", ~_finite(columns.subject_boxes) | ~(_finite(columns.object_boxes) | without)),
        ):
            self._note(reason, np.flatnonzero(kept & wrong), columns.row, columns.scores if "score" in reason else None)
            kept &= ~wrong
        self._note_inverted(columns, kept)
        order = _by_image(image, kept)
        relations = Relations(
            images=len(truth),
            image=image[order],
            subject_boxes=columns.subject_boxes[order],
            object_boxes=columns.object_boxes[order],
            subject_labels=ends[0][order],
            object_labels=ends[1][order],
            predicates=predicate[order],
            scores=columns.scores[order],
        )
        boxes = self._boxes(columns, places, objects)
        lost = np.setdiff1d(np.arange(len(truth)), places)
        missing = None
        if len(lost):
            examples = (truth.uris[position] for position in lost[:3].tolist())
            missing = Fault("images of the ground truth without a row", len(lost), tuple(examples))
        findings = DetectionFindings(
            self._path, len(self._images), len(relations), tuple(self._faults), tuple(self._noted), missing
        )
        if findings.faults and not drop_faulty:
            hints.append("remove the faulty rows, or leave them out with --drop-faulty")
        if missing and not allow_missing:
            hints.append("predict the missing images, or count them as images without detections with --allow-missing")
        if (findings.faults and not drop_faulty) or (missing and not allow_missing):
            raise DetectionsError(findings, hints)
        return DetectionSet(relations, boxes, findings)

    def _image_places(self) -> Integers:
        """The position of each image of the file in the truth, or a negative number with a fault."""
        by_id, by_uri = self._truth.by_id, self._truth.by_uri
        places = np.full(len(self._images), _UNKNOWN)
        taken: set[int] = set()
        for row, (image_id, uri) in enumerate(self._images):
            of_id = by_id.get(image_id, _UNKNOWN) if image_id is not None else _UNKNOWN
            of_uri = by_uri.get(uri, by_uri.get(uri.rpartition("/")[2], _UNKNOWN)) if uri else _UNKNOWN
            place = of_uri if of_id == _UNKNOWN else of_id
            if _UNKNOWN not in (of_id, of_uri) and of_id != of_uri:
                place = _MISMATCH
            elif place in taken:
                place = _AGAIN
            taken.add(place)
            places[row] = place
        for reason, mark in (
            ("unknown image", _UNKNOWN),
            ("duplicate image", _AGAIN),
            ("image id and file name of different images", _MISMATCH),
        ):
            self._note(reason, np.flatnonzero(places == mark), np.arange(len(places)))
        return places

    def _to_shares(self, columns: _Columns, places: Integers) -> None:
        """Divides boxes by the size of their image where the truth's boxes are shares of it."""
        of_shares = (self._truth.sizes == 1).all(axis=1)
        if not of_shares.any():
            return
        sizes = np.array(self._sizes, np.float64).reshape(-1, 2)
        rows = (places >= 0) & of_shares[places]
        unknown = rows & ~(np.isfinite(sizes) & (sizes > 0)).all(axis=1)
        if unknown.any():
            example = self._image(int(unknown.argmax()))
            raise FatalError(
                f"{self._path}: {int(unknown.sum()):,} images have no width and height, e.g. {example}; "
                "the ground truth states boxes as shares of the image: give it the images' sizes, or write them to the file"
            )
        scale = np.where(rows[:, None], np.tile(sizes, 2), 1.0)
        columns.subject_boxes = columns.subject_boxes / scale[columns.row]
        columns.object_boxes = columns.object_boxes / scale[columns.row]
        columns.boxes = columns.boxes / scale[columns.box_row]

    def _boxes(self, columns: _Columns, places: Integers, objects: Integers) -> LabelledBoxes:
        """The boxes of images and names of the truth, with usable scores."""
        image, labels = places[columns.box_row], _labels(objects, columns.labels)
        usable = np.isfinite(columns.box_scores) & (columns.box_scores >= 0)
        usable &= _finite(columns.boxes)
        self._note("box or its score not usable", np.flatnonzero((image >= 0) & ~usable), columns.box_row)
        order = _by_image(image, usable & (image >= 0) & (labels >= 0))
        return LabelledBoxes(
            len(self._truth), image[order], columns.boxes[order], labels[order], columns.box_scores[order]
        )

    def _note_inverted(self, columns: _Columns, kept: NDArray[np.bool_]) -> None:
        inverted = kept & (_inverted(columns.subject_boxes) | _inverted(columns.object_boxes))
        rows = columns.row[inverted]
        self._noted.add("box inverted", len(rows), map(self._image, rows.tolist()))

    def _note(self, reason: str, positions: Integers, rows: Integers, values: NDArray[Any] | None = None) -> None:
        """Counts faults at some positions of columns."""
        examples = (
            self._image(int(rows[position])) + ("" if values is None else f" {values[position]:g}")
            for position in positions.tolist()
        )
        self._faults.add(reason, len(positions), examples)

    def _image(self, row: int) -> str:
        image_id, uri = self._images[row]
        return uri or (f"image {row}" if image_id is None else str(image_id))


def _flattened(lists: pa.ChunkedArray) -> tuple[Integers, Mapping[str, pa.Array]]:
    """The length of each list (0 for null), and the fields of all elements."""
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    elements = pc.list_flatten(lists)
    elements = elements.combine_chunks() if isinstance(elements, pa.ChunkedArray) else elements
    names = [each.name for each in lists.type.value_type]
    return counts, {name: pc.struct_field(elements, name) for name in names}


def _numbers(values: pa.Array, absent: float = float("nan")) -> NDArray[Any]:
    return np.asarray(pc.fill_null(values, pa.scalar(absent, values.type)).to_numpy(zero_copy_only=False))


def _coded(values: pa.Array, codes: dict[str, int]) -> Integers:
    """The code of each text. New texts get the next codes; null is the empty text."""
    encoded = pc.dictionary_encode(pc.fill_null(values, ""))
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    known = np.array([codes.setdefault(text, len(codes)) for text in encoded.dictionary.to_pylist()], np.int64)
    return np.asarray(known[encoded.indices.to_numpy(zero_copy_only=False)])


def _pair_of(entry: Any) -> tuple[str, tuple[float, ...]] | None:
    """The image of a pair, and its boxes, object, verb and score; None if it is malformed."""
    if not isinstance(entry, dict):
        return None
    name, score = entry.get("image"), entry.get("score")
    boxes = as_four_numbers(entry.get("box_h")), as_four_numbers(entry.get("box_o"))
    codes = as_id(entry.get("object_coco80")), as_id(entry.get("verb"))
    if boxes[0] is None or boxes[1] is None or codes[0] is None or codes[1] is None or not isinstance(name, str):
        return None
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None
    return name, (*boxes[0], *boxes[1], codes[0], codes[1], float(score))


def _dense_of(entry: Any) -> tuple[Floats, Integers, Floats, Integers, Integers] | None:
    """Boxes, labels, scores (pairs × predicates), subjects and objects of an image; None if they do not fit."""
    if not isinstance(entry, dict) or not set(_DENSE_FIELDS) <= entry.keys():
        return None
    try:
        boxes = np.array(entry["boxes"], np.float64).reshape(-1, 4)
        labels, subjects, objects = (np.array(entry[name], np.int64) for name in ("labels", "sub_ids", "obj_ids"))
        scores = np.array(entry["verb_scores"], np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    fits = labels.shape == (len(boxes),) and subjects.ndim == 1 and subjects.shape == objects.shape
    fits = fits and len(scores) == len(subjects) and (scores.ndim == 2 or not len(scores))
    return (boxes, labels, scores, subjects, objects) if fits else None


def _matched(names: Iterable[str], own: Sequence[str], form: Any) -> Integers:
    """The place in `own` of each name, -1 for none. Names of one `form` are equal where only one of `own` has it."""
    exact = {name: place for place, name in enumerate(own)}
    plain: dict[str, int] = {}
    for name, place in exact.items():
        plain.setdefault(_plain(name), place)
    by_form: dict[str, int] = {}
    if form is not None:
        for name, place in exact.items():
            by_form[form(name)] = -1 if form(name) in by_form else place
    found = []
    for name in names:
        place = exact.get(name, plain.get(_plain(name), -1))
        found.append(by_form.get(form(name), -1) if place < 0 and form is not None else place)
    return np.array(found, np.int64)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _labels(places: Integers, codes: Integers) -> Integers:
    """The label of each code; `NO_OBJECT` stays."""
    if not len(places):
        return codes
    return np.where(codes >= 0, places[codes], NO_OBJECT)


def _chosen(names: Mapping[str, int], codes: Integers) -> dict[str, int]:
    wanted = set(codes.tolist())
    return {name: code for name, code in names.items() if code in wanted}


def _listed(names: Iterable[str], most: int = 200) -> str:
    found = list(names)
    more = f", and {len(found) - most:,} more" if len(found) > most else ""
    return ", ".join(repr(name) for name in found[:most]) + more


def _by_image(image: Integers, kept: NDArray[np.bool_]) -> Integers | slice:
    """Selects what is kept, by ascending image in stable order. A slice if that is everything as it is, without a copy."""
    if kept.all() and (image[1:] >= image[:-1]).all():
        return slice(None)
    order = np.flatnonzero(kept)
    return order[np.argsort(image[order], kind="stable")]


def _finite(boxes: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(boxes).all(axis=1))


def _inverted(boxes: Floats) -> NDArray[np.bool_]:
    return (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
