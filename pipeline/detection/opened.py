"""Opens the detector that the settings name, and gives its boxes the names of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.detection.category_names import map_names
from pipeline.detection.detector import Detector
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import DetectorFiles, find_detector
from pipeline.evaluation.detection import Detections
from pipeline.runtime.devices import choose_device
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.vocabulary import TrainedNames
from storage.errors import FatalError


@dataclass(frozen=True)
class NamedBoxes:
    """The boxes of one image, best first, and how many others were found in it."""

    boxes: Detections
    """Boxes are clipped to the image; labels index the categories."""
    other_names: int
    """Boxes whose name fits no category."""


class OpenDetector:
    """A detector that is ready to use. `categories` are the names of the boxes."""

    def __init__(self, detector: Detector, settings: DetectSettings) -> None:
        """Raises `FatalError` when no name of the detector fits a category of the settings."""
        named = [name for name in detector.names if name]
        mapped = map_names(named, settings.categories) if settings.categories else named
        of_name = dict(zip(named, mapped, strict=True))
        self._detector, self._settings = detector, settings
        self.categories = tuple(dict.fromkeys(settings.categories or named))
        places = {category: place for place, category in enumerate(self.categories)}
        meant = [of_name.get(name) for name in detector.names]
        self._places = np.array([-1 if each is None else places[each] for each in meant], np.int64)

    def detect(self, images: Sequence[Image.Image]) -> list[NamedBoxes]:
        """Finds the boxes of RGB images that the settings keep."""
        found = self._detector.detect(images, self._settings.threshold)
        return [self._named(boxes, image) for boxes, image in zip(found, images, strict=True)]

    def _named(self, found: Detections, image: Image.Image) -> NamedBoxes:
        assert found.scores is not None
        labels, scores = self._places[found.labels], found.scores
        if not (np.isfinite(found.boxes).all() and np.isfinite(scores).all()):
            raise FatalError(
                "the detector's boxes or scores are not finite; its weights are damaged (setting: detect.weights)"
            )
        size = np.array([image.width, image.height, image.width, image.height], np.float64)
        boxes = np.clip(found.boxes, 0, size).astype(np.float32).astype(np.float64)  # as tables hold them
        inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
        kept = np.flatnonzero(inside & (labels >= 0))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        best = Detections(boxes[kept], labels[kept], scores[kept]).without_duplicates(self._settings.duplicates)
        assert best.scores is not None
        most = self._settings.max_boxes
        best = Detections(best.boxes[:most], best.labels[:most], best.scores[:most])
        return NamedBoxes(best, int((labels < 0).sum()))


def open_detector(settings: DetectSettings, worker: int = 0) -> OpenDetector:
    """Opens a detector for worker number `worker`, counted from 0.

    Raises `FatalError` when its files or the GPU are missing, or its names fit no category.
    """
    found = find_detector(settings)
    device = choose_device(settings.device, worker)
    keep_freed_memory()
    detector: Detector
    if found.kind == "transformers":
        from pipeline.detection.transformers_detector import TransformersDetector

        detector = TransformersDetector(found.place, device, settings.batch_size)
    elif found.kind == "torchvision":
        from pipeline.detection.torchvision_detector import TorchvisionDetector

        detector = TorchvisionDetector(found.place, device, settings.batch_size)
    else:
        from pipeline.detection.own_detector import OwnDetector

        detector = OwnDetector(
            found.files[MODEL], _tokenizer(found), *_names_and_size(found, settings), device, settings.batch_size
        )
    return OpenDetector(detector, settings)


def _tokenizer(found: DetectorFiles) -> Any:
    (folder,) = {path.parent for name, path in found.files.items() if name not in (MODEL, VOCABULARY)}
    return folder


def _names_and_size(found: DetectorFiles, settings: DetectSettings) -> tuple[Sequence[str], int]:
    """The names that a network of this project looks for, and the longest side at which it sees images."""
    path = found.files.get(VOCABULARY)
    known = TrainedNames(settings.image_size) if path is None else TrainedNames.read(path)
    return settings.categories or known.objects or list(COCO_CATEGORIES.values()), known.image_size
