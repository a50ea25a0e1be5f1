"""Boxes of many images as columns: what a test set shows, or what was detected in it, besides relations."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluation.interactions import Floats, Integers


@dataclass(frozen=True)
class LabelledBoxes:
    """N boxes of `images` images, by ascending image. `scores` ranks detections; ground truth has none."""

    images: int
    image: Integers
    """N: the position of each box's image in the test set"""
    boxes: Floats
    """N×4 absolute pixels (left, top, right, bottom)"""
    labels: Integers
    """N: indices into the object names"""
    scores: Floats | None = None

    def __len__(self) -> int:
        return len(self.image)
