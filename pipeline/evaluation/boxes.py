"""Overlap of boxes under the +1 pixel convention of the interaction benchmarks, and suppression of duplicates."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.interactions import Floats, Integers


def pixel_iou(left: Floats, right: Floats) -> Floats:
    """N×M overlaps of N×4 and M×4 boxes (left, top, right, bottom; both ends belong to the box).

    A side is `end - start + 1` pixels long; boxes whose intersection has no positive extent do not overlap.
    """
    start = np.maximum(left[:, None, :2], right[None, :, :2])
    end = np.minimum(left[:, None, 2:], right[None, :, 2:])
    sides = np.where((end > start).all(axis=2, keepdims=True), end - start + 1, 0)
    common = sides[..., 0] * sides[..., 1]
    return np.asarray(common / (_area(left)[:, None] + _area(right)[None, :] - common))


def suppress(scores: Floats, overlaps: Floats, same: np.ndarray, threshold: float) -> Integers:
    """Greedy suppression: positions to keep, best score first.

    `overlaps` and `same` are N×N; an item goes when a better kept one has `same` and an overlap above `threshold`.
    """
    conflicts = same & (overlaps > threshold)
    alive = np.ones(len(scores), dtype=bool)
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if alive[index]:
            kept.append(int(index))
            alive &= ~conflicts[index]
    return np.asarray(kept, dtype=np.int64)


def _area(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
