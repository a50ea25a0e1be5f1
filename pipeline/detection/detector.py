"""The detector protocol: it takes images and returns labelled boxes with scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from pipeline.evaluation.detection import Detections


class Detector(Protocol):
    """Finds objects. The boxes of an image depend on the image alone, except for the last bits of their numbers."""

    names: tuple[str, ...]
    """What the labels of its boxes mean."""

    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of each RGB image that score at least `threshold`.

        Boxes are xyxy in pixels of the image as given, in any order; they may stick out of it. Labels index `names`.
        """
        ...
