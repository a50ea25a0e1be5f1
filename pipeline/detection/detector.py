"""The protocol of detectors, the mapping of their names to a recipe's, and the choice of detector by the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from PIL import Image

from pipeline.detection.recorded_detector import RecordedDetector
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import DetectorFiles, find_detector
from pipeline.evaluation.detection import Detections
from pipeline.runtime.plugins import load_plugin
from pipeline.runtime.processes import keep_freed_memory
from pipeline.runtime.wording import first_few
from storage.errors import FatalError
from tagger.categories.names import without_case
from tagger.matching import is_broader, match

_SHOWN = 20
"""Number of names of each side that an error lists."""


class Detector(Protocol):
    """Detects objects. The boxes of an image depend only on the image, except for low-order bits.

    A detector of another package also has a `version`, which is part of the key, and may have `Options`, the section
    `[detect.options]` of a recipe.
    """

    names: tuple[str, ...]
    """The class names that labels index."""

    @classmethod
    def open(cls, files: DetectorFiles, settings: DetectSettings, worker: int) -> Self:
        """Loads it in worker `worker`, counted from 0. Raises `FatalError` if its files can't be used."""
        ...

    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Detects boxes that score at least `threshold` in each RGB image; lower ones are excluded afterwards. Boxes
        are xyxy in pixels of the input image, in any order, and may extend beyond it. Labels index `names`.
        """
        ...


def map_names(names: Sequence[str], categories: Sequence[str]) -> list[str | None]:
    """Returns the category of each name; None for a name that fits none, or several equally well.

    A name fits the category of the same words; else the one of which it is a spelling, a synonym ("sofa", "couch") or a
    kind ("fire truck", "truck"). A broader name ("vehicle", "glove") never fits a narrower category ("car", "baseball
    glove"), nor does a word of several meanings ("board").

    Raises `FatalError` that lists both when no name fits a category.
    """
    mapped = [_category(name, categories) for name in names]
    if not any(mapped):
        raise FatalError(
            f"detect.categories: none of the detector's {len(names)} names fits any of the {len(categories)} "
            f"categories. The detector has: {first_few(names, _SHOWN)}. The recipe asks for: "
            f"{first_few(categories, _SHOWN)}. Choose another detector or other categories, or leave the categories "
            "out to get the detector's names"
        )
    return mapped


def _category(name: str, categories: Sequence[str]) -> str | None:
    words = without_case(name)
    for category in categories:
        if without_case(category) == words:
            return category
    meant = match(words, categories)
    return meant[0] if len(meant) == 1 and not is_broader(words, meant[0]) else None


@dataclass(frozen=True)
class NamedBoxes:
    """The boxes of one image, best first, and the number of others that were detected in it."""

    boxes: Detections
    """Boxes are clipped to the image; labels index the categories."""
    other_names: int
    """Boxes whose name fits no category."""


class OpenDetector:
    """A detector that is ready to use. `categories` are the names of the boxes."""

    def __init__(self, detector: Detector | RecordedDetector, settings: DetectSettings) -> None:
        """Raises `FatalError` when no name of the detector fits a category of the settings."""
        named = [name for name in detector.names if name]
        mapped = map_names(named, settings.categories) if settings.categories else named
        of_name = dict(zip(named, mapped, strict=True))
        self._detector, self._settings = detector, settings
        self.categories = tuple(dict.fromkeys(settings.categories or named))
        places = {category: place for place, category in enumerate(self.categories)}
        chosen = [of_name.get(name) for name in detector.names]
        self._places = np.array([-1 if each is None else places[each] for each in chosen], np.int64)

    def detect(self, images: Sequence[Image.Image], uris: Sequence[str] = ()) -> list[NamedBoxes]:
        """Finds the boxes of RGB images that the settings keep. Recorded boxes are found by the images' file names."""
        if isinstance(self._detector, RecordedDetector):
            detected = self._detector.of(images, uris)
        else:
            detected = self._detector.detect(images, self._settings.threshold)
        return [self._named(boxes, image) for boxes, image in zip(detected, images, strict=True)]

    def _named(self, detected: Detections, image: Image.Image) -> NamedBoxes:
        assert detected.scores is not None
        labels, scores = self._places[detected.labels], detected.scores
        is_sure = scores >= self._settings.threshold
        if not (np.isfinite(detected.boxes).all() and np.isfinite(scores).all()):
            raise FatalError(
                "the detector's boxes or scores are not finite; its weights are damaged (setting: detect.weights)"
            )
        size = np.array([image.width, image.height, image.width, image.height], np.float64)
        boxes = np.clip(detected.boxes, 0, size).astype(np.float32).astype(np.float64)  # as tables hold them
        inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
        kept = np.flatnonzero(inside & is_sure & (labels >= 0))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        best = Detections(boxes[kept], labels[kept], scores[kept]).without_duplicates(self._settings.duplicates)
        return NamedBoxes(best.take(slice(self._settings.max_boxes)), int((is_sure & (labels < 0)).sum()))


def open_detector(settings: DetectSettings, worker: int = 0) -> OpenDetector:
    """Opens a detector for worker number `worker`, counted from 0.

    Raises `FatalError` when its files or the GPU are missing, or its names fit no category.
    """
    files = find_detector(settings)
    keep_freed_memory()
    kind = load_plugin("detectors", files.kind)
    # This project's own are loaded as they are created.
    return OpenDetector(getattr(kind, "open", kind)(files, settings, worker), settings)
