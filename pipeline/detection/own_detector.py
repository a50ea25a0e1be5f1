"""A network of this project as a detector: the subjects and objects of its pairs are its boxes."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from models.config import ConfigError
from models.weights import load
from models.weights_file import WeightsError
from pipeline.data.datasets.names import COCO_CATEGORIES
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import DetectorFiles
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.detections.names import distinct
from pipeline.evaluation.predictor import Names, Predictor
from pipeline.runtime.devices import choose_device
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.vocabulary import TrainedNames
from storage.errors import FatalError

PREDICATES = ("on",)
"""The predicates in its texts. A network needs at least one, and no box is chosen by its predicates."""


class OwnDetector:
    """A pre-trained network with the names of objects as its texts, which are encoded once."""

    def __init__(self, files: DetectorFiles, settings: DetectSettings, worker: int) -> None:
        """Raises `FatalError` when the file holds no network that detects, or a damaged one."""
        weights = files.files[MODEL]
        (tokenizer,) = {path.parent for name, path in files.files.items() if name not in (MODEL, VOCABULARY)}
        try:
            network = load(weights, tokenizer)
        except (WeightsError, ConfigError, OSError) as error:
            raise FatalError(f"detect.weights: {error}") from error
        self.names, image_size = _names_and_size(files, settings)
        self._batch, network = settings.batch_size, network.to(choose_device(settings.device, worker))
        try:
            self._predictor = Predictor(network, Names(self.names, PREDICATES), image_size, per_image=1)
        except FatalError as error:
            raise FatalError(f"detect.weights = {weights}: {error}") from error

    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of images. An object of several pairs occurs once for each of them."""
        return [image.boxes for image in self._predictor.predict(images, self._batch)]


def _names_and_size(files: DetectorFiles, settings: DetectSettings) -> tuple[tuple[str, ...], int]:
    """The names that a network of this project looks for, and the longest side at which it sees images.

    Raises `FatalError` for a name that its training spelled otherwise: to the network, that is another text.
    """
    path = files.files.get(VOCABULARY)
    known = TrainedNames(settings.image_size) if path is None else TrainedNames.read(path)
    if learned := {*distinct(settings.categories, known.objects)} & {*known.objects} - {*settings.categories}:
        raise FatalError(f"detect.categories: spell names as the weights learned them: {', '.join(sorted(learned))}")
    return tuple(settings.categories or known.objects or COCO_CATEGORIES.values()), known.image_size
