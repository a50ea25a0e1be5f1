"""Reads detections from any source over the images and names of a ground truth.

Formats: our table `DETECTIONS` as Parquet, or as JSON with one object a line or in a list (`table.py`); lists of pairs,
and lists of images with a score for every pair and predicate (`public_formats.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import shown
from pipeline.data.datasets.json_stream import stream_rows
from pipeline.data.datasets.record import NO_OBJECT
from pipeline.evaluation.detections.content import EXPECTED, DetectionFindings, DetectionsContent, Fault, Faults
from pipeline.evaluation.detections.names import listed, matched
from pipeline.evaluation.detections.public_formats import (
    MATRIX_FIELDS,
    PAIR_FIELDS,
    read_pair_list,
    read_score_matrices,
)
from pipeline.evaluation.detections.table import json_lines, read_parquet, read_rows
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.relations import Flags, Floats, Integers, Relations, scores_of
from storage.errors import FatalError
from tagger.english.predicates import canonical


@dataclass(frozen=True)
class DetectionSet:
    """Detections over the images and names of a ground truth."""

    truth: GroundTruth
    """The ground truth, with the sizes of images that only the detections state, and so with boxes in pixels"""
    relations: Relations
    findings: DetectionFindings
    every_score: bool
    """Whether the file has the scores of all predicates, so that the best of an image were chosen from all"""


def read_detections(
    path: Path,
    truth: GroundTruth,
    *,
    allow_missing: bool = False,
    drop_faulty: bool = False,
    per_image: int | None = 100,
    per_pair: int | None = None,
    counts: Callable[[Relations], Flags] | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> DetectionSet:
    """Reads a file of detections.

    Relations with an inverted box are noted, and scored as the public evaluators do: such a box overlaps no true one.
    Images are found by id, else by file name; names by their text, in which case and underscores do not count, and
    predicates also by their canonical form, which a run's have, where only one of the truth has it. With
    `allow_missing`, images that the file lacks have no detections; with `drop_faulty`, faulty rows are left out and
    counted. Both are an error otherwise.

    `counts` marks the relations that can count, by the labels of the truth; others are forgotten. Only the format with
    `verb_scores` per pair and predicate uses `per_image`, `per_pair` and `allowed`, as `read_score_matrices` does.

    If boxes of the ground truth are shares of the image, the row's width and height make them pixels, the unit of all
    rules. Raises `FatalError` for these errors, for a file of another kind, names that do not fit at all, and images
    whose size nobody states.
    """
    content = DetectionsContent(path)
    if counts is not None:
        content.counts = partial(_counts, content, truth, counts)
    head = _head(path)
    if head[:4] == b"PAR1":
        read_parquet(content)
    elif head[:1] == b"{":
        read_rows(content, json_lines(path))
    elif head[:1] == b"[":
        _read_list(content, truth, per_image, per_pair, allowed)
    else:
        why = "is a pickle, which can run code when loaded; write it as JSON" if head[0] == 0x80 else "no detections"
        raise FatalError(f"{path}: {why}; expected {EXPECTED}")
    if not content.images:
        raise FatalError(f"{path}: contains no image; expected {EXPECTED}")
    return _over_truth(content, truth, allow_missing=allow_missing, drop_faulty=drop_faulty)


def _head(path: Path) -> bytes:
    """The first bytes that are neither white space nor a byte order mark."""
    if not path.is_file():
        raise FatalError(f"{path}: no such file; expected {EXPECTED}")
    with path.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise FatalError(f"{path}: is empty; expected {EXPECTED}")
    return head


def _read_list(
    content: DetectionsContent,
    truth: GroundTruth,
    per_image: int | None,
    per_pair: int | None,
    allowed: NDArray[np.bool_] | None,
) -> None:
    """Reads a JSON list, whose first entry tells its format."""
    entries = stream_rows(content.path, EXPECTED)
    first = next(entries, None)
    if first is None:
        return
    keys = first.keys() if isinstance(first, dict) else set()
    everything = chain([first], entries)
    if keys >= set(MATRIX_FIELDS):
        read_score_matrices(content, everything, truth, per_image, per_pair, allowed)
    elif keys >= set(PAIR_FIELDS):
        read_pair_list(content, everything, truth.predicates)
    elif {"boxes", "pairs"} <= keys:
        read_rows(content, ((f"image {number}", entry) for number, entry in enumerate(everything)))
    else:
        raise FatalError(f"{content.path}: its first entry is {shown(first)}; expected {EXPECTED}")


_UNKNOWN, _AGAIN, _MISMATCH, _RESIZED = -1, -2, -3, -4
"""Places of images that the ground truth lacks, that recur, whose id and name disagree, and whose size differs."""


def _over_truth(
    content: DetectionsContent, truth: GroundTruth, *, allow_missing: bool, drop_faulty: bool
) -> DetectionSet:
    """Keeps what fits the ground truth. Raises `FatalError` for the rest, unless the two flags say otherwise, if no
    name fits, and if true boxes are shares of an image of unknown size."""
    columns = Relations.joined(content.parts or [Relations.of(())])
    content.parts.clear()
    places = _image_places(content, truth)
    truth = _in_pixels(truth, content, places)
    objects = matched(content.objects, truth.objects)
    predicates = matched(content.predicates, truth.predicates, canonical)
    used = np.union1d(columns.subject_labels, columns.object_labels)
    hints = _name_hints(content, "object", _chosen(content.objects, used[used >= 0]), objects, truth.objects)
    used_predicates = _chosen(content.predicates, np.unique(columns.predicates))
    hints += _name_hints(content, "predicate", used_predicates, predicates, truth.predicates)
    noted = Faults()
    relations = _relations(content, columns, len(truth), places, objects, predicates, noted)
    missing = _missing(truth, places)
    findings = DetectionFindings(
        content.path,
        len(content.images),
        len(relations),
        tuple(content.faults.values()),
        tuple(noted.values()),
        missing,
    )
    if findings.faults and not drop_faulty:
        hints.append("remove the faulty rows, or exclude them with --drop-faulty")
    if missing and not allow_missing:
        hints.append("predict the missing images, or count them as images without detections with --allow-missing")
    if (findings.faults and not drop_faulty) or (missing and not allow_missing):
        wrong = [*map(str, findings.faults), *([str(missing)] if missing else []), *hints]
        raise FatalError(f"{content.path} can't be scored:\n  " + "\n  ".join(wrong))
    return DetectionSet(truth, relations, findings, content.every_score)


def _image_places(content: DetectionsContent, truth: GroundTruth) -> Integers:
    """The position of each image of the file in the truth, or a negative number with a fault."""
    by_id, by_uri = truth.by_id, truth.by_uri
    places = np.full(len(content.images), _UNKNOWN)
    taken: set[int] = set()
    for row, (image_id, uri) in enumerate(content.images):
        of_id = by_id.get(image_id, _UNKNOWN) if image_id is not None else _UNKNOWN
        of_uri = by_uri.get(uri, by_uri.get(uri.rpartition("/")[2], _UNKNOWN)) if uri else _UNKNOWN
        place = of_uri if of_id == _UNKNOWN else of_id
        if _UNKNOWN not in (of_id, of_uri) and of_id != of_uri:
            place = _MISMATCH
        elif place >= 0 and place in taken:
            place = _AGAIN
        taken.add(place)
        places[row] = place
    known = np.flatnonzero(places >= 0)
    sizes = truth.sizes[places[known]]
    apart = np.abs(_sizes(content)[known] - sizes).max(axis=1) > 1
    # A true size of 0 or 1 is unknown.
    places[known[apart & (sizes > 1).all(axis=1)]] = _RESIZED
    for reason, mark in (
        ("unknown image", _UNKNOWN),
        ("duplicate image", _AGAIN),
        ("image id and file name of different images", _MISMATCH),
        ("image whose width or height differs from the ground truth's", _RESIZED),
    ):
        content.note(reason, np.flatnonzero(places == mark), np.arange(len(places)))
    return places


def _chosen(names: Mapping[str, int], codes: Integers) -> dict[str, int]:
    wanted = set(codes.tolist())
    return {name: code for name, code in names.items() if code in wanted}


def _name_hints(
    content: DetectionsContent, kind: str, used: Mapping[str, int], places: Integers, own: tuple[str, ...]
) -> list[str]:
    """Lists the `used` names of the file (name → code) that the truth lacks. Raises `FatalError` if it lacks all."""
    lacking = [name for name, code in used.items() if places[code] < 0]
    if used and len(lacking) == len(used):
        raise FatalError(
            f"{content.path}: none of its {kind} names is in the ground truth.\n  the file has {listed(used)}\n"
            f"  the ground truth has {listed(own)}"
        )
    if not lacking:
        return []
    return [f"{kind} names of the file: {listed(lacking)}; of the ground truth: {listed(own)}"]


def _sizes(content: DetectionsContent) -> Floats:
    """Width and height of each image of the file; NaN where it does not state them."""
    return np.array(content.sizes, np.float64).reshape(-1, 2)


def _in_pixels(truth: GroundTruth, content: DetectionsContent, places: Integers) -> GroundTruth:
    """The truth with sizes that only the file states, which turn boxes given as shares of the image into pixels."""
    sizes = np.zeros((len(truth), 2))
    known = places >= 0
    sizes[places[known]] = np.nan_to_num(_sizes(content)[known], nan=0.0)
    truth = truth.with_sizes(sizes)
    unknown = np.flatnonzero(known)[(truth.sizes[places[known]] == 1).all(axis=1)]
    if len(unknown):
        raise FatalError(
            f"{content.path}: {len(unknown):,} images have no width and height, e.g. "
            f"{content.image_name(int(unknown[0]))}, and the ground truth states boxes as shares of the image; name a "
            "file with the images' sizes (--file image_data=) or the images (--images), or write width and height to "
            "the file"
        )
    return truth


def _relations(
    content: DetectionsContent,
    columns: Relations,
    images: int,
    places: Integers,
    objects: Integers,
    predicates: Integers,
    noted: Faults,
) -> Relations:
    """The pairs of images and names of the truth. Counts what is faulty, and in `noted` what is odd."""
    image = places[columns.image] if len(places) else columns.image
    found = replace(_labelled(columns, objects, predicates), images=images, image=image)
    kept = image >= 0
    for reason, wrong in _faults(columns, found):
        values = scores_of(columns) if "score" in reason else None
        content.note(reason, np.flatnonzero(kept & wrong), columns.image, values)
        kept &= ~wrong
    inverted = columns.image[kept & (_inverted(columns.subject_boxes) | _inverted(columns.object_boxes))]
    noted.add("box inverted", len(inverted), map(content.image_name, inverted.tolist()))
    return found.take(_by_image(image, kept))


def _labelled(columns: Relations, objects: Integers, predicates: Integers) -> Relations:
    """The pairs as they follow in the file, with the labels of the truth; -1 for names that it lacks."""
    return replace(
        columns,
        subject_labels=_labels(objects, columns.subject_labels),
        object_labels=_labels(objects, columns.object_labels),
        predicates=_labels(predicates, columns.predicates),
    )


def _faults(columns: Relations, found: Relations) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each reason why pairs can't be scored, and the pairs that it holds for."""
    scores, without = scores_of(columns), columns.object_labels == NO_OBJECT
    yield "unknown object name", (found.subject_labels < 0) | ((found.object_labels < 0) & ~without)
    yield "unknown predicate name", found.predicates < 0
    yield "score negative or not finite", ~(np.isfinite(scores) & (scores >= 0))
    yield "box not finite", ~_finite(columns.subject_boxes) | ~(_finite(columns.object_boxes) | without)


def _counts(
    content: DetectionsContent, truth: GroundTruth, counts: Callable[[Relations], Flags], part: Relations
) -> Flags:
    """Marks pairs that can count, and faulty ones, which are counted later. With masks, all may."""
    objects, predicates = (
        matched(content.objects, truth.objects),
        matched(content.predicates, truth.predicates, canonical),
    )
    found = _labelled(part, objects, predicates)
    kept = np.zeros(len(part), bool)
    for _, wrong in _faults(part, found):
        kept |= wrong
    usable = np.flatnonzero(~kept)
    if part.masks is None and len(usable):
        usable = usable[counts(found.take(usable))]
    kept[usable] = True
    return kept


def _missing(truth: GroundTruth, places: Integers) -> Fault | None:
    lost = np.setdiff1d(np.arange(len(truth)), places)
    if not len(lost):
        return None
    examples = (truth.uris[position] for position in lost[:3].tolist())
    return Fault("images of the ground truth without a row", len(lost), tuple(examples))


def _labels(places: Integers, codes: Integers) -> Integers:
    """The label of each code; `NO_OBJECT` stays."""
    if not len(places):
        return codes
    return np.where(codes >= 0, places[codes], NO_OBJECT)


def _by_image(image: Integers, kept: NDArray[np.bool_]) -> Integers | slice:
    """Selects what is kept, stably sorted by image. A slice, which needs no copy, if that is everything as it is."""
    if kept.all() and (image[1:] >= image[:-1]).all():
        return slice(None)
    order = np.flatnonzero(kept)
    return order[np.argsort(image[order], kind="stable")]


def _finite(boxes: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(boxes).all(axis=1))


def _inverted(boxes: Floats) -> NDArray[np.bool_]:
    return (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
