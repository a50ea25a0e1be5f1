# mypy: allow-untyped-decorators
"""Loops over boxes that are decided one after the other, best first. Numba compiles them, once for a machine.

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
    for image in range(len(bounds) - 1):
        for place in range(bounds[image], bounds[image + 1]):
            item = order[place]
            alone = True
            for better in order[bounds[image] : place]:
                if names[better] == names[item] and outcome[better] > 0:
                    subject = power(iou(subjects[better], subjects[item]), powers[0])
                    if subject > suppression:
                        alone = not subject * power(iou(objects[better], objects[item]), powers[1]) > suppression
                        if not alone:
                            break
            if not alone:
                continue
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
