"""A network of this project as a detector: the subjects and objects of its pairs are its boxes.

Shapes: B images, T object texts (the last for "no objects"), V predicate texts, E width of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from models.check_finite import check_finite
from models.config import NO_OBJECTS
from models.postprocess import Pairs, scene_graph
from models.predictions import Predictions
from models.rlip import RLIP
from models.weights import WeightsError, load
from pipeline.data.images.views import to_pixels
from pipeline.evaluation.detection import Detections
from storage.errors import FatalError

PREDICATES = ("on",)
"""The predicates that are asked for where none are known. A network needs one text, and no box is chosen by it."""


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
        if not isinstance(network, RLIP):
            raise FatalError(
                f"detect.weights = {weights}: holds a {type(network).__name__}, which is given boxes and finds none; name the "
                "weights of a detector or of a pre-training"
            )
        self.names = tuple(names)
        self._network, self._image_size, self._device, self._batch = network.to(device), image_size, device, batch
        with torch.inference_mode():
            self._objects_TE = network.encode_texts([*self.names, NO_OBJECTS])
            self._predicates_VE = network.encode_texts(PREDICATES)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], threshold: float) -> list[Detections]:
        """Finds the boxes of images. Those of the same size in the network share a pass, so none is padded."""
        pixels = [to_pixels(image, self._image_size) for image in images]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, tensor in enumerate(pixels):
            by_shape.setdefault(tuple(tensor.shape), []).append(position)
        found: dict[int, Detections] = {}
        for positions in by_shape.values():
            for start in range(0, len(positions), self._batch):
                chosen = positions[start : start + self._batch]
                predictions = self._predict(torch.stack([pixels[each] for each in chosen]))
                sizes = [(images[each].height, images[each].width) for each in chosen]
                for each, pairs in zip(chosen, scene_graph(predictions, sizes), strict=True):
                    found[each] = _detections(pairs, threshold)
        return [found[position] for position in range(len(images))]

    def _predict(self, images_B3HW: torch.Tensor) -> Predictions:
        """Returns the last layer's predictions, on the CPU."""
        made = self._network.predict(images_B3HW.to(self._device), None, self._objects_TE, self._predicates_VE)
        here = {name: tensor.cpu() for name, tensor in made.tensors().items()}
        check_finite(here, self._network)
        return Predictions(**here, auxiliary=[])


def _detections(pairs: Pairs, threshold: float) -> Detections:
    """Returns the subjects and objects of all pairs. An object of several pairs occurs once for each of them."""
    boxes = torch.cat((pairs.subject_boxes, pairs.object_boxes))
    labels = torch.cat((pairs.subject_labels, pairs.object_labels))
    scores = torch.cat((pairs.subject_scores, pairs.object_scores))
    kept = scores >= threshold
    return Detections(boxes[kept].double().numpy(), labels[kept].numpy(), scores[kept].double().numpy())
