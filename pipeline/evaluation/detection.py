"""Average precision of object detection at IoU 0.5, by COCO's rules with pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.matching import kept
from pipeline.evaluation.relations import Floats, Integers


@dataclass(frozen=True)
class Detections:
    """N labelled boxes, N×4 absolute pixels (left, top, right, bottom), of one image. Ground truth has no scores.

    `crowd` (N) marks ground truth that is not an object to find: what lies in it counts neither as right nor as wrong.
    """

    boxes: Floats
    labels: Integers
    scores: Floats | None = None
    crowd: NDArray[np.bool_] | None = None

    def take(self, index: Integers | slice) -> Detections:
        """Returns the boxes that `index` (positions or a slice) selects, in its order."""
        scores = None if self.scores is None else self.scores[index]
        crowd = None if self.crowd is None else self.crowd[index]
        return Detections(self.boxes[index], self.labels[index], scores, crowd)

    def without_duplicates(self, threshold: float) -> Detections:
        """Suppresses boxes that overlap a better one of the same label by more than `threshold`. Sorts best first."""
        if self.scores is None or not len(self.labels):
            return self
        order = np.argsort(-self.scores, kind="stable")
        order = order[kept(self.labels[order], [self.boxes[order]], [1.0], threshold)]
        return self.take(order)

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns column `boxes` of a row of the `detections` table."""
        assert self.scores is not None
        sides = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            dict(zip("xywh", box, strict=True), category=names[label], score=score)
            for box, label, score in zip(sides.tolist(), self.labels, self.scores.tolist(), strict=True)
        ]


def average_precision_50(predictions: Sequence[Detections], truths: Sequence[Detections]) -> dict[int, float]:
    """Returns AP50 per label that the ground truth has outside crowds.

    Images are in the same order; unequal lengths raise ValueError.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    crowds = [np.zeros(len(truth.labels), bool) if truth.crowd is None else truth.crowd for truth in truths]
    present = sorted({int(n) for truth, crowd in zip(truths, crowds, strict=True) for n in truth.labels[~crowd]})
    results = [
        _annotation(image, box, label) | {"score": float(score)}
        for image, (found, _) in enumerate(zip(predictions, truths, strict=True))
        if found.scores is not None
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
    ]
    if not results or not present:
        return dict.fromkeys(present, 0.0)
    truth_rows = [
        _annotation(image, box, label) | {"iscrowd": int(is_crowd)}
        for image, (truth, crowd) in enumerate(zip(truths, crowds, strict=True))
        for box, label, is_crowd in zip(truth.boxes, truth.labels, crowd, strict=True)
    ]
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truths))],
            "annotations": [row | {"id": number + 1} for number, row in enumerate(truth_rows)],
            "categories": [{"id": label} for label in present],
        }
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, 0]
    return {label: float(precision[:, column].mean()) for column, label in enumerate(present)}


def _annotation(image: int, box: Floats, label: np.int64) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in box)
    width, height = right - left, bottom - top
    return {"image_id": image, "category_id": int(label), "bbox": [left, top, width, height], "area": width * height}
