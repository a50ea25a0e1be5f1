# mypy: allow-untyped-decorators
"""Loops over boxes that are decided one after the other, best first. Numba compiles them, once per machine.

Boxes are N×4 (left, top, right, bottom), both ends included. Numbers are computed as NumPy does, so that bits agree.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np

# Compiled code lies where Python keeps its own, under the same conditions. Without any such place, Numba would stop.
_keeps_code = os.access(Path(__file__).parent, os.W_OK) and not sys.dont_write_bytecode
_compiled: Any = numba.njit(cache=_keeps_code, nogil=True)


@_compiled
def iou(one: Any, other: Any) -> Any:
    """Returns the IoU of two boxes, as `aligned_iou`; NaN where a box is."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    common = (width + 1) * (height + 1) if width > 0 and height > 0 else 0.0
    area, other_area = (
        (one[2] - one[0] + 1) * (one[3] - one[1] + 1),
        (other[2] - other[0] + 1) * (other[3] - other[1] + 1),
    )
    return common / (area + other_area - common)


@_compiled
def sort_by_digits(keys: Any, order: Any) -> Any:
    """Returns the N places of `order` by ascending `keys` (uint64). Equal keys keep their order."""
    keys, other_keys, other = keys.copy(), np.empty_like(keys), np.empty_like(order)
    for shift in range(0, 64, _DIGIT):
        digits = (keys >> np.uint64(shift)) & np.uint64(2**_DIGIT - 1)
        starts = np.zeros(2**_DIGIT + 1, np.int64)
        for digit in digits:
            starts[digit + 1] += 1
        if starts.max() == len(keys):  # all alike, as the low-order bits of numbers in single precision are
            continue
        starts = np.cumsum(starts)
        for place in range(len(keys)):
            target = starts[digits[place]]
            starts[digits[place]] += 1
            other_keys[target], other[target] = keys[place], order[place]
        keys, other_keys, order, other = other_keys, keys, other, order
    return order


_DIGIT = 11
"""Bits that are sorted at once; 64 bits take six rounds."""


@_compiled
def power(base: float, exponent: float) -> float:
    """Returns `base ** exponent`."""
    return base if exponent == 1 else np.sqrt(base) if exponent == 0.5 else base**exponent


@_compiled
def settle(order: Any, bounds: Any, boxes: Any, powers: Any, threshold: float, shown: Any) -> None:
    """Writes for each item the best kept one of its group that suppresses it, or leaves it to show itself.

    `order` has the G groups after one another, best items first; `bounds` (G+1) says where each begins. Two items
    overlap by the product of the IoU of their `boxes` (a tuple of N×4) to the `powers`.
    """
    for number in range(len(bounds) - 1):
        for place in range(bounds[number] + 1, bounds[number + 1]):
            item = order[place]
            for better in order[bounds[number] : place]:
                overlap = 1.0 if shown[better] == better else 0.0
                for kind in range(len(boxes)):
                    if overlap > threshold:  # no further factor exceeds 1
                        overlap *= power(iou(boxes[kind][better], boxes[kind][item]), powers[kind])
                if overlap > threshold:
                    shown[item] = better
                    break


@_compiled
def find(
    order: Any, bounds: Any, names: Any, subjects: Any, objects: Any, true_bounds: Any, true_names: Any,
    true_subjects: Any, true_objects: Any, powers: Any, suppression: float, overlap: float, outcome: Any,
) -> None:  # fmt: skip
    """Writes for each prediction that counts 1, or 2 if it is the first to find the truth that it overlaps most.

    `order` has the predictions of one image after another, best first, and `bounds` says where each image begins;
    truths are by image. `names` are numbers of triplets. A better prediction of one name suppresses another whose
    overlap exceeds `suppression`; a truth is found where both boxes overlap by `overlap`.
    """
    taken = np.zeros(len(true_names), np.bool_)
    # The last prediction kept of each name in an image, and the one kept before it, so that others are not looked at.
    last, before = np.full(names.max() + 1 if len(names) else 0, -1), np.empty(len(names), np.int64)
    for image in range(len(bounds) - 1):
        for place in range(bounds[image], bounds[image + 1]):
            last[names[order[place]]] = -1
        for place in range(bounds[image], bounds[image + 1]):
            item = order[place]
            better = last[names[item]]
            while better >= 0:
                subject = power(iou(subjects[better], subjects[item]), powers[0])
                # No further factor exceeds 1.
                if (
                    subject > suppression
                    and subject * power(iou(objects[better], objects[item]), powers[1]) > suppression
                ):
                    break
                better = before[better]
            if better >= 0:
                continue
            before[item], last[names[item]] = last[names[item]], item
            outcome[item] = 1
            nearest, most = -1, 0.0
            for truth in range(true_bounds[image], true_bounds[image + 1]):
                if true_names[truth] == names[item]:
                    least = min(iou(subjects[item], true_subjects[truth]), iou(objects[item], true_objects[truth]))
                    if least >= overlap and least > most:
                        nearest, most = truth, least
            if nearest >= 0 and not taken[nearest]:
                taken[nearest] = True
                outcome[item] = 2


@_compiled
def find_in_graphs(
    bounds: Any, scores: Any, subjects: Any, objects: Any, subject_labels: Any, object_labels: Any, predicates: Any,
    true_bounds: Any, true_subjects: Any, true_objects: Any, true_subject_labels: Any, true_object_labels: Any,
    true_predicates: Any, overlap: float, same: float, official: bool, limit: int, most: int, found: Any, used: Any,
) -> None:  # fmt: skip
    """Writes for each truth the place of the prediction that finds it, with one predicate of a pair and with all (2×T).

    Predictions and truths are by image, which `bounds` delimit; an image has `most` predictions at most. Boxes of a
    label whose IoU exceeds `same` are one object, the best of them. The `limit` best predictions of an image count.
    Each finds at most one truth, the one of those left that it overlaps most, or all truths that it overlaps if
    `official`. `used` gets a mark for each prediction that counts.
    """
    # A heap, because few of an image's predictions count, so most need no place in an order.
    heap = np.empty(most, np.int64)
    boxes, names, shown = np.empty((2 * most, 4)), np.empty(2 * most, np.int64), np.empty(2 * most, np.int64)
    ranked, counts = np.empty((2, limit, 3), np.int64), np.empty(2, np.int64)
    for image in range(len(bounds) - 1):
        size, things = bounds[image + 1] - bounds[image], 0
        counts[0], counts[1] = 0, 0
        for place in range(size):
            heap[place] = bounds[image] + place
        for place in range(size // 2 - 1, -1, -1):
            sift(heap, size, place, scores)
        while size > 0 and (counts[0] < limit or counts[1] < limit):
            item = heap[0]
            size -= 1
            heap[0] = heap[size]
            sift(heap, size, 0, scores)
            subject, things = thing(subjects[item], subject_labels[item], boxes, names, shown, things, same)
            target, things = thing(objects[item], object_labels[item], boxes, names, shown, things, same)
            for kind in range(2):
                place = counts[kind]
                is_new = place < limit
                # A pair has one predicate, its best, or all, each once.
                for before in range(place if is_new and not (kind == 1 and official) else 0):
                    same_pair = ranked[kind, before, 0] == subject and ranked[kind, before, 1] == target
                    if same_pair and (kind == 0 or ranked[kind, before, 2] == predicates[item]):
                        is_new = False
                        break
                if not is_new:
                    continue
                ranked[kind, place, 0], ranked[kind, place, 1], ranked[kind, place, 2] = (
                    subject,
                    target,
                    predicates[item],
                )
                counts[kind] += 1
                used[item] = True
                nearest, nearness = -1, 0.0
                for truth in range(true_bounds[image], true_bounds[image + 1]):
                    if (
                        found[kind, truth] > place
                        and true_predicates[truth] == predicates[item]
                        and true_subject_labels[truth] == subject_labels[item]
                        and true_object_labels[truth] == object_labels[item]
                    ):
                        least = min(iou(boxes[subject], true_subjects[truth]), iou(boxes[target], true_objects[truth]))
                        if least >= overlap and official:
                            found[kind, truth] = place
                        elif least >= overlap and least > nearness:
                            nearest, nearness = truth, least
                if nearest >= 0:
                    found[kind, nearest] = place


@_compiled
def thing(box: Any, name: int, boxes: Any, names: Any, shown: Any, count: int, same: float) -> Any:
    """Returns which of an image's `count` boxes shows the same object as a box, and their number with that box."""
    for known in range(count):
        if names[known] == name:
            equal = True
            for side in range(4):
                equal &= box[side] == boxes[known, side] or (np.isnan(box[side]) and np.isnan(boxes[known, side]))
            if equal:
                return shown[known], count
    for side in range(4):
        boxes[count, side] = box[side]
    names[count], shown[count] = name, count
    for known in range(count):
        if names[known] == name and shown[known] == known and iou(boxes[known], box) > same:
            shown[count] = known
            break
    return shown[count], count + 1


@_compiled
def sift(heap: Any, size: int, place: int, scores: Any) -> None:
    """Moves an item of a heap of rows down to where none below has a higher score; of equal ones, the first is best."""
    item = heap[place]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and is_better(heap[child + 1], heap[child], scores):
            child += 1
        if not is_better(heap[child], item, scores):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = item


@_compiled
def is_better(one: int, other: int, scores: Any) -> bool:
    """Returns whether a row has a higher score than another, or the same and comes first."""
    return scores[one] > scores[other] or (scores[one] == scores[other] and one < other)
