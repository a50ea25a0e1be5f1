"""Interactions of one image as arrays: pairs of labelled boxes, each with a predicate.

Boxes are N×4 absolute pixels (left, top, right, bottom); labels and predicates are indices into name lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Interactions:
    """N interactions of one image. `scores` ranks predictions; ground truth has none."""

    subject_boxes: Floats
    object_boxes: Floats
    subject_labels: Integers
    object_labels: Integers
    predicates: Integers
    scores: Floats | None = None

    def __len__(self) -> int:
        return len(self.predicates)


def best_entries(scores: Floats, limit: int) -> tuple[Integers, Integers]:
    """Returns rows and columns of the `limit` highest scores, best first. Ties are in the order of rows, then columns."""
    order = np.argsort(-scores, axis=None, kind="stable")[:limit]
    rows, columns = np.divmod(order, max(scores.shape[1], 1))
    return rows.astype(np.int64), columns.astype(np.int64)


def pixel_iou(left: Floats, right: Floats) -> Floats:
    """Returns the N×M IoU of N×4 and M×4 boxes (left, top, right, bottom; both ends belong to the box).

    A side is `end - start + 1` pixels long. Boxes whose intersection has no positive extent do not overlap.
    """
    return paired_pixel_iou(left[:, None, :], right[None, :, :])


def paired_pixel_iou(left: Floats, right: Floats) -> Floats:
    """Returns the IoU of each box of ...×4 with its counterpart in another ...×4, as `pixel_iou`."""
    width, height = _common(left, right, 0), _common(left, right, 1)
    common = np.where((width > 0) & (height > 0), (width + 1) * (height + 1), 0)
    return np.asarray(common / (_area(left) + _area(right) - common))


def suppress(scores: Floats, overlaps: Floats, same: np.ndarray, threshold: float) -> Integers:
    """Suppresses duplicates greedily. Returns the positions to keep, best score first.

    `overlaps` and `same` are N×N. An item is dropped when a better kept one has `same` and an overlap above `threshold`.
    """
    conflicts = same & (overlaps > threshold)
    alive = np.ones(len(scores), dtype=bool)
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if alive[index]:
            kept.append(int(index))
            alive &= ~conflicts[index]
    return np.asarray(kept, dtype=np.int64)


def _common(left: Floats, right: Floats, axis: int) -> Floats:
    """Returns how far the boxes' intersection extends along an axis, from first to last pixel."""
    start, end = np.maximum(left[..., axis], right[..., axis]), np.minimum(left[..., axis + 2], right[..., axis + 2])
    return np.asarray(end - start)


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1))
