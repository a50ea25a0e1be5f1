"""Runs a pre-trained network on a test set with names it may never have seen, and scores pairs and boxes.

Shapes: B images, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.check_finite import check_finite
from models.config import NO_OBJECTS
from models.network import Network
from models.postprocess import Pairs, scene_graph, zero_shot
from models.predictions import Predictions
from models.rlip import RLIP
from pipeline.data.images.views import to_pixels
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.hico import HicoRules, without_duplicates
from pipeline.evaluation.interactions import Interactions, ScoredPairs
from pipeline.runtime.stage import ReportProgress

DUPLICATE_BOXES = 0.5
"""IoU above which two boxes of one label count as the same detection."""


@dataclass(frozen=True)
class TestNames:
    """The object and predicate names of a test set, which are the texts that the network gets."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]


class ZeroShot:
    """A pre-trained network with the names of a test set as its texts."""

    def __init__(self, network: Network, names: TestNames, image_size: int, subject: str | None) -> None:
        """`subject`: the name that the likeliest subject of a pair must have (HICO-DET: "person"); None allows all."""
        assert isinstance(network, RLIP)
        self._network, self._image_size = network.eval(), image_size
        self._device = next(network.parameters()).device
        self._subject = None if subject is None else names.objects.index(subject)
        with torch.inference_mode():
            self._objects_TE = network.encode_texts([*names.objects, NO_OBJECTS])
            self._predicates_TE = network.encode_texts(names.predicates)

    @torch.inference_mode()
    def predict(
        self, images: Sequence[Any], rules: HicoRules, batch: int, report: ReportProgress
    ) -> Iterator[tuple[int, Interactions, Detections]]:
        """Yields the position of each RGB image, its interactions that count, and its detections, in any order."""
        by_shape: dict[tuple[int, int], list[int]] = {}
        pixels = [to_pixels(image, self._image_size) for image in images]
        for position, tensor in enumerate(pixels):
            by_shape.setdefault((tensor.shape[1], tensor.shape[2]), []).append(position)
        done = 0
        for positions in by_shape.values():
            for start in range(0, len(positions), batch):
                chosen = positions[start : start + batch]
                stacked = torch.stack([pixels[position] for position in chosen])
                predictions = self._predict(stacked.to(self._device, non_blocking=True))
                sizes = [(images[position].height, images[position].width) for position in chosen]
                every = scene_graph(predictions, sizes)
                scored = every if self._subject is None else zero_shot(predictions, sizes, self._subject)
                for position, pairs, boxes in zip(chosen, scored, every, strict=True):
                    best = _scored_pairs(pairs).best(rules.per_image)
                    yield position, without_duplicates(best, rules), _detections(boxes)
                done += len(chosen)
                report(done, len(images))

    def _predict(self, images_B3HW: Tensor) -> Predictions:
        """Returns the last layer's predictions, on the CPU."""
        found = self._network.predict(images_B3HW, None, self._objects_TE, self._predicates_TE)
        here = {name: tensor.cpu() for name, tensor in found.tensors().items()}
        check_finite(here, self._network)
        return Predictions(**here, auxiliary=[])


def truth_interactions(row: Mapping[str, Any], names: TestNames, canonical: Mapping[str, str]) -> Interactions:
    """Returns the given relations of a row of the `images` table."""
    boxes = np.array([[b["x"], b["y"], b["x"] + b["w"], b["y"] + b["h"]] for b in row["boxes"]], np.float64).reshape(
        -1, 4
    )
    labels = np.array([names.objects.index(b["category"]) for b in row["boxes"]], np.int64)
    ends = np.array([(r["subject"], r["object"]) for r in row["relations"]], np.int64).reshape(-1, 2)
    predicates = [names.predicates.index(canonical[r["predicate"]]) for r in row["relations"]]
    return Interactions(
        subject_boxes=boxes[ends[:, 0]],
        object_boxes=boxes[ends[:, 1]],
        subject_labels=labels[ends[:, 0]],
        object_labels=labels[ends[:, 1]],
        predicates=np.array(predicates, np.int64),
    )


def truth_detections(row: Mapping[str, Any], names: TestNames) -> Detections:
    """Returns the boxes of a row of the `images` table."""
    boxes = np.array([[b["x"], b["y"], b["x"] + b["w"], b["y"] + b["h"]] for b in row["boxes"]], np.float64).reshape(
        -1, 4
    )
    return Detections(boxes, np.array([names.objects.index(b["category"]) for b in row["boxes"]], np.int64))


def _scored_pairs(pairs: Pairs) -> ScoredPairs:
    return ScoredPairs(
        subject_boxes=pairs.subject_boxes.double().numpy(),
        object_boxes=pairs.object_boxes.double().numpy(),
        subject_labels=pairs.subject_labels.numpy(),
        object_labels=pairs.object_labels.numpy(),
        predicate_scores=pairs.predicate_scores.double().numpy(),
    )


def _detections(pairs: Pairs) -> Detections:
    """Returns the subjects and objects of all pairs as detections without duplicates."""
    boxes = torch.cat((pairs.subject_boxes, pairs.object_boxes)).double().numpy()
    labels = torch.cat((pairs.subject_labels, pairs.object_labels)).numpy()
    scores = torch.cat((pairs.subject_scores, pairs.object_scores)).double().numpy()
    return Detections(boxes, labels, scores).without_duplicates(DUPLICATE_BOXES)
