"""Reads the public formats of detections: JSON lists of pairs, and of images with a score for every pair and predicate.

A pair is {image, box_h, box_o, object_coco80, verb, score}, of a person and a COCO category. An image is {boxes,
labels, verb_scores, sub_ids, obj_ids}, as the networks of RLIPv2, QPIC and their relatives give it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.datasets.annotations import as_four_numbers, as_id, as_number, shown
from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.evaluation.detections.content import DetectionsContent
from pipeline.evaluation.detections.names import counted_names, matched
from pipeline.evaluation.ground_truth import GroundTruth
from pipeline.evaluation.ranking import ranks_in
from pipeline.evaluation.relations import Floats, Integers, Relations
from storage.errors import FatalError

MATRIX_FIELDS = ("boxes", "labels", "verb_scores", "sub_ids", "obj_ids")


_Scored = tuple[Floats, Integers, Floats, Integers, Integers]
"""N boxes of an image, N×4 (left, top, right, bottom), their labels, P×C scores of pairs of them, and for each pair the
index of the subject's box and of the object's."""


def read_score_matrices(
    content: DetectionsContent,
    entries: Iterable[Any],
    truth: GroundTruth,
    per_image: int | None,
    per_pair: int | None,
    allowed: NDArray[np.bool_] | None,
) -> None:
    """Reads each image's `per_image` best scores (None: all) of those that `allowed` (objects × predicates) permits.

    With `per_pair`, also as many of those that are among the `per_pair` best of their pair. Labels count
    `counted_names`.

    Raises `FatalError` for an image whose fields do not fit, or images that can't be distinguished.
    """
    names = counted_names(truth.objects)
    content.objects = {name: code for code, name in enumerate(names)}
    content.predicates = {name: code for code, name in enumerate(truth.predicates)}
    if allowed is not None:
        known = matched(names, truth.objects)
        allowed = np.where((known >= 0)[:, None], allowed[known], False)
    content.every_score = True
    for number, entry in enumerate(entries):
        found = _scored(entry)
        if found is None:
            raise FatalError(
                f"{content.path}: image {number} lacks one of {', '.join(MATRIX_FIELDS)}, or they do not fit"
            )
        size = as_four_numbers([0, 0, *entry["size"]]) if isinstance(entry.get("size"), list) else None
        uri = entry.get("file_name", entry.get("filename", entry.get("uri")))
        content.images.append((as_id(entry.get("image_id")), uri if isinstance(uri, str) else None))
        content.sizes.append((np.nan, np.nan) if size is None else (size[2], size[3]))
        content.add(_best(content, number, found, per_image, per_pair, allowed))
    if any(image == (None, None) for image in content.images):
        raise FatalError(
            f"{content.path}: not all of its images have an image_id or a file_name, and their order does not say "
            "which they are; add one of them to each"
        )


def _scored(entry: Any) -> _Scored | None:
    """The fields of an image; None if they do not fit."""
    if not isinstance(entry, dict) or not set(MATRIX_FIELDS) <= entry.keys():
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


def _best(
    content: DetectionsContent,
    row: int,
    found: _Scored,
    per_image: int | None,
    per_pair: int | None,
    allowed: NDArray[np.bool_] | None,
) -> Relations:
    """The highest scores of an image, as `read_score_matrices` chooses them."""
    boxes, labels, scores, subjects, objects = found
    if not len(subjects):
        return Relations.of(())
    predicates = len(content.predicates)
    rows = np.full(max(scores.size, len(subjects)), row)
    wrong = (subjects < 0) | (subjects >= len(boxes)) | (objects < 0) | (objects >= len(boxes))
    content.note("box index out of range", np.flatnonzero(wrong), rows)
    subjects, objects, scores = subjects[~wrong], objects[~wrong], scores[~wrong]
    names = labels[subjects], labels[objects]
    beyond = (np.minimum(*names) < 0) | (np.maximum(*names) >= len(content.objects))
    content.note("object class out of range", np.flatnonzero(beyond), rows, np.maximum(*names))
    subjects, objects, scores = subjects[~beyond], objects[~beyond], scores[~beyond]
    if len(scores) and scores.shape[1] != predicates:
        raise FatalError(
            f"{content.path}: image {row} scores {scores.shape[1]} predicates, the ground truth has {predicates}"
        )
    faulty = ~(np.isfinite(scores) & (scores >= 0))
    content.note("score negative or not finite", np.flatnonzero(faulty), rows, scores.reshape(-1))
    usable = ~faulty if allowed is None else ~faulty & allowed[labels[objects]]
    # Below every score, so that what can't be used comes last and is cut off
    flat = np.where(usable, scores, -1.0).reshape(-1)
    ranked = np.argsort(-flat, kind="stable")
    order = ranked[:per_image]
    if per_pair is not None:
        pairs = (subjects * len(boxes) + objects)[ranked // max(predicates, 1)]
        order = ranked[np.isin(ranked, np.append(order, ranked[ranks_in([pairs]) < per_pair][:per_image]))]
    order = order[flat[order] >= 0]
    pair, predicate = order // max(predicates, 1), order % max(predicates, 1)
    ends = subjects[pair], objects[pair]
    columns = *(boxes[end] for end in ends), *(labels[end] for end in ends), predicate, flat[order]
    return Relations(row + 1, np.full(len(order), row), *columns)


PAIR_FIELDS = ("image", "box_h", "box_o", "object_coco80", "verb", "score")


def read_pair_list(content: DetectionsContent, entries: Iterable[Any], predicates: Sequence[str]) -> None:
    """Reads pairs, whose boxes are (left, top, right, bottom) and whose `verb` is a place in `predicates`."""
    names = list(COCO_CATEGORIES.values())
    content.objects = {name: code for code, name in enumerate(names)}
    content.predicates = {name: code for code, name in enumerate(predicates)}
    places: dict[str, int] = {}
    numbers, row = [], []
    for position, entry in enumerate(entries):
        found = _pair_of(entry)
        if found is None:
            content.faults.add("pair malformed", 1, [f"entry {position}: {shown(entry)}"])
            continue
        name, numbers_of_pair = found
        row.append(places.setdefault(name, len(places)))
        numbers.append(numbers_of_pair)
    content.images = [(None, name) for name in places]
    content.sizes = [(np.nan, np.nan)] * len(places)
    values = np.array(numbers, np.float64).reshape(-1, 11)
    codes = values[:, 8:10].astype(np.int64)
    known = [(codes[:, 0] >= 0) & (codes[:, 0] < len(names)), (codes[:, 1] >= 0) & (codes[:, 1] < len(predicates))]
    places_of = np.array(row, np.int64)
    content.note("object class out of range", np.flatnonzero(~known[0]), places_of, codes[:, 0])
    content.note("predicate out of range", np.flatnonzero(known[0] & ~known[1]), places_of, codes[:, 1])
    kept = known[0] & known[1]
    content.parts.append(
        Relations(
            images=len(places),
            image=places_of[kept],
            subject_boxes=values[kept, :4],
            object_boxes=values[kept, 4:8],
            subject_labels=np.full(int(kept.sum()), content.objects["person"]),
            object_labels=codes[kept, 0],
            predicates=codes[kept, 1],
            scores=values[kept, 10],
        )
    )


def _pair_of(entry: Any) -> tuple[str, tuple[float, ...]] | None:
    """The image of a pair, and its boxes, object, verb and score; None if it is malformed."""
    if not isinstance(entry, dict):
        return None
    name, score = entry.get("image"), as_number(entry.get("score"))
    boxes = as_four_numbers(entry.get("box_h")), as_four_numbers(entry.get("box_o"))
    codes = as_id(entry.get("object_coco80")), as_id(entry.get("verb"))
    if boxes[0] is None or boxes[1] is None or codes[0] is None or codes[1] is None:
        return None
    return (
        (name, (*boxes[0], *boxes[1], codes[0], codes[1], score))
        if isinstance(name, str) and score is not None
        else None
    )
