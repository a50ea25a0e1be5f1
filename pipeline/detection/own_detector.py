"""A network of this project as a detector: the subjects and objects of its pairs are its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from models.weights import load
from models.weights_file import WeightsError
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.predictor import Names, Predictor
from storage.errors import FatalError

PREDICATES = ("on",)
"""The predicates in its texts. A network needs at least one, and no box is chosen by its predicates."""


class OwnDetector:
    """A pre-trained network with the names of objects as its texts, which are encoded once."""

    def __init__(
        self,
        weights: Path,
        tokenizer: Path,
        names: Sequence[str],
        image_size: int,
        device: torch.device,
        batch: int,
    ) -> None:
        """Raises `FatalError` when the file holds no network that detects, or a damaged one."""
        try:
            network = load(weights, tokenizer)
        except (WeightsError, OSError) as error:
            raise FatalError(f"detect.weights: {error}") from error
        self.names, self._batch = tuple(names), batch
        try:
            self._predictor = Predictor(network.to(device), Names(self.names, PREDICATES), image_size, per_image=1)
        except FatalError as error:
            raise FatalError(f"detect.weights = {weights}: {error}") from error

    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of images. An object of several pairs occurs once for each of them."""
        return [_above(image.boxes, threshold) for image in self._predictor.predict(images, self._batch)]


def _above(boxes: Detections, threshold: float) -> Detections:
    assert boxes.scores is not None
    kept = boxes.scores >= threshold
    return Detections(boxes.boxes[kept], boxes.labels[kept], boxes.scores[kept])
