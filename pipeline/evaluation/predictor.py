"""Finds boxes and relations in a stream of images with a pre-trained network, for any names.

Shapes: P pairs, V predicates, N relations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from models.config import NO_OBJECTS
from models.network import Network
from models.predictions import Pairs, Predictions, check_finite, hoi, scene_graph
from models.rlip import RLIP
from pipeline.data.images.training_view import STRIDE
from pipeline.data.images.views import passes, to_pixels
from pipeline.evaluation.detection import Detections
from pipeline.evaluation.detections.names import matched
from pipeline.evaluation.matching import representatives
from pipeline.evaluation.ranking import best_entries
from pipeline.evaluation.relations import Floats, Integers, Relations
from pipeline.runtime.wording import first_few
from storage.errors import FatalError, did_you_mean

MOST_NAMES = 10_000
"""Names of objects, and of predicates, each of which the text encoder reads once."""
LARGEST_SIDE = 8192
"""Pixels. A network's memory grows with the square of the side."""
SAME_OBJECT = 0.5
"""IoU above which two boxes of one name show the same thing."""
WINDOW = 4
"""Batches' worth of consecutive images among which those of equal size are sought."""


@dataclass(frozen=True)
class Names:
    """The object and predicate names, which are the texts that the network gets."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]

    def __post_init__(self) -> None:
        if NO_OBJECTS in map(str.lower, self.objects):
            raise FatalError(f'the object names contain "{NO_OBJECTS}", which the network itself adds; remove it')

    def place_of(self, subject: str) -> int:
        """The place in `objects` of a subject's name. Ignores case and underscores. Raises `FatalError` for others."""
        (place,) = matched([subject], self.objects).tolist()
        if place < 0:
            meant = did_you_mean(subject, self.objects)
            raise FatalError(f"subject {subject!r} is not among the object names{meant}: {first_few(self.objects, 10)}")
        return int(place)


@dataclass(frozen=True)
class Found:
    """What a network found in one image: boxes, and relations between them, best first."""

    boxes: Detections
    """The P subjects, then the P objects"""
    subjects: Integers
    objects: Integers
    """N: indices into the boxes"""
    predicates: Integers
    scores: Floats

    def unique(self, per_image: int) -> Found:
        """Returns this with one box for each thing: the best of those of one name that overlap.

        Excludes relations of a thing with itself; keeps the best of equal relations, and the `per_image` best of all.
        """
        found = self.boxes
        assert found.scores is not None
        order = np.argsort(-found.scores, kind="stable")
        best = np.empty(len(order), np.int64)
        best[order] = order[representatives(found.labels[order], [found.boxes[order]], [1.0], SAME_OBJECT)]
        kept, thing = np.unique(best, return_inverse=True)
        ends = np.stack([thing[self.subjects], thing[self.objects], self.predicates], axis=1)
        _, first = np.unique(ends, axis=0, return_index=True)  # relations come best first
        rows = np.sort(first[ends[first, 0] != ends[first, 1]])[:per_image]
        return Found(found.take(kept), ends[rows, 0], ends[rows, 1], self.predicates[rows], self.scores[rows])

    def relations(self) -> Relations:
        """Returns the relations with their boxes and labels."""
        boxes, labels = self.boxes.boxes, self.boxes.labels
        ends = boxes[self.subjects], boxes[self.objects], labels[self.subjects], labels[self.objects]
        return Relations(1, np.zeros(len(self.subjects), np.int64), *ends, self.predicates, self.scores)

    def row(self, names: Names) -> dict[str, Any]:
        """Returns columns `boxes` and `pairs` of a row of the `detections` table."""
        columns = (self.subjects.tolist(), self.objects.tolist(), self.predicates, self.scores.tolist())
        pairs = [
            {"subject": subject, "object": object_, "predicate": names.predicates[predicate], "score": score}
            for subject, object_, predicate, score in zip(*columns, strict=True)
        ]
        return {"boxes": self.boxes.rows(names.objects), "pairs": pairs}


class Predictor:
    """A pre-trained network whose texts were encoded once."""

    def __init__(
        self,
        network: Network,
        names: Names,
        image_size: int,
        *,
        subject: str | None = None,
        assume_subject: bool = False,
        per_image: int | None = 100,
        every_pair: bool = False,
    ) -> None:
        """`image_size`: pixels to which an image's longest side is resized; `per_image`: relations to keep, None all.

        `every_pair`: also keep the best predicate of each pair, of which recall of scene graphs takes the best.

        `subject`: the name that the likeliest subject of a pair must have (HICO-DET: "person"), whose own probability
        is then no factor of the score; None allows all. `assume_subject`: no pair is left out, and every subject gets
        that name, whatever the network calls it.

        Raises `FatalError` for a network that finds no boxes, too many names, too small or too large images and an
        unknown subject, or none to assume.
        """
        if not isinstance(network, RLIP):
            raise FatalError(
                f"the weights are of a {type(network).__name__}, which takes boxes and detects none; name those of a "
                "detector or a pre-training run"
            )
        if not STRIDE <= image_size <= LARGEST_SIDE:
            raise FatalError(f"image size {image_size:,}: give a longest side of {STRIDE} to {LARGEST_SIDE:,} pixels")
        if (count := max(len(names.objects), len(names.predicates))) > MOST_NAMES:
            raise FatalError(f"{count:,} names: {MOST_NAMES:,} objects and as many predicates are the maximum")
        self._network, self._image_size, self._per_image = network.eval(), image_size, per_image
        self._every_pair = every_pair
        self._device = next(network.parameters()).device
        if assume_subject and subject is None:
            raise FatalError("assume_subject needs a subject; name it, for example person")
        self._subject = None if subject is None else names.place_of(subject)
        self._assume_subject = assume_subject
        with torch.inference_mode():
            self._objects_TE = network.encode_texts([*names.objects, NO_OBJECTS])
            self._predicates_TE = network.encode_texts(names.predicates)

    def predict(self, images: Iterable[Image], batch: int) -> Iterator[Found]:
        """Yields what the network finds in each RGB image, in order. Up to `batch` images of equal size share a pass.

        No more than four batches of images are held at a time.
        """
        left = iter(images)
        while window := list(islice(left, WINDOW * batch)):
            pixels = [to_pixels(image, self._image_size) for image in window]
            found: dict[int, Found] = {}
            for chosen in passes(pixels, batch):
                stacked = torch.stack([pixels[place] for place in chosen])
                sizes = [(window[place].height, window[place].width) for place in chosen]
                found |= zip(chosen, self._found(stacked, sizes), strict=True)
            yield from (found[place] for place in range(len(window)))

    @torch.inference_mode()
    def _found(self, images_B3HW: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> Iterator[Found]:
        images = images_B3HW.to(self._device, non_blocking=True)
        predicted = self._network.predict(images, None, self._objects_TE, self._predicates_TE)
        here = {name: tensor.cpu() for name, tensor in predicted.tensors().items()}
        check_finite(here, self._network)
        predictions = Predictions(**here, auxiliary=[])
        score = scene_graph if self._subject is None else hoi
        for pairs in score(predictions, list(sizes)):
            if self._subject is not None and self._assume_subject:
                pairs.subject_labels.fill_(self._subject)
            yield self._best(pairs)

    def _best(self, pairs: Pairs) -> Found:
        count = len(pairs.subject_labels)
        named = pairs.subject_labels.numpy()
        places = np.arange(count) if self._subject is None else np.flatnonzero(named == self._subject)
        scores = pairs.predicate_scores.double().numpy()[places]
        pair, predicate = best_entries(scores, scores.size if self._per_image is None else self._per_image)
        if self._every_pair and scores.size:
            best = np.stack([np.arange(len(scores)), scores.argmax(axis=1)])
            entries = np.unique(np.concatenate([[pair, predicate], best], axis=1), axis=1)
            pair, predicate = entries[:, np.argsort(-scores[tuple(entries)], kind="stable")]
        boxes = torch.cat((pairs.subject_boxes, pairs.object_boxes)).double().numpy()
        labels = torch.cat((pairs.subject_labels, pairs.object_labels)).numpy()
        confidence = torch.cat((pairs.subject_scores, pairs.object_scores)).double().numpy()
        subjects = places[pair]
        return Found(
            Detections(boxes, labels, confidence), subjects, subjects + count, predicate, scores[pair, predicate]
        )
