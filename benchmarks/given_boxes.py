"""Average precision by predicate on given boxes: of a network, and of a head that knows boxes and names but no pixels.

For every predicate, the ordered pairs of an image's boxes are ranked over all images.
Axes: M ordered pairs of all images, V predicates, P predicted pairs, N boxes of an image, F features of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_iou

from pipeline.evaluation.predictor import Found
from pipeline.training.tagger_evaluation import average_precision
from tagger.english.predicates import canonical

Scores = NDArray[np.float32]


class GivenBoxes:
    """The ordered pairs of the boxes in some rows of the `images` table, and which predicates hold for them."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], predicates: Sequence[str]) -> None:
        """Predicates are canonical. Relations with others don't count."""
        self.predicates = tuple(predicates)
        self._boxes = [np.array([_corners(box) for box in row["boxes"]]).reshape(-1, 4) for row in rows]
        self._sizes = [(row["width"], row["height"]) * 2 for row in rows]
        names = [[box["category"] for box in row["boxes"]] for row in rows]
        ends = [
            (image, *pair) for image, boxes in enumerate(self._boxes) for pair in permutations(range(len(boxes)), 2)
        ]
        self._ends, place = ends, {end: number for number, end in enumerate(ends)}
        self.names = [(names[image][subject], names[image][object_]) for image, subject, object_ in ends]
        self.truth = np.zeros((len(ends), len(predicates)), bool)
        number = {name: column for column, name in enumerate(predicates)}
        for image, row in enumerate(rows):
            for each in row["relations"]:
                if (column := number.get(canonical(each["predicate"]))) is not None:
                    self.truth[place[image, each["subject"], each["object"]], column] = True

    def scores(self, image: int, found: Found) -> Scores:
        """Returns one image's ordered pairs × V: a predicate's best probability in a predicted pair that fits both boxes.

        It fits with an IoU of .5. The names that the network gives to the boxes don't count.
        """
        given, predicted = torch.from_numpy(self._boxes[image]), torch.from_numpy(found.boxes.boxes)
        confidence = found.boxes.scores
        assert confidence is not None
        probability_PV = np.zeros((len(predicted) // 2, len(self.predicates)), np.float32)
        classes = confidence[found.subjects] * confidence[found.objects]
        probability_PV[found.subjects, found.predicates] = found.scores / classes
        subject_PN, object_PN = (box_iou(part, given).numpy() >= 0.5 for part in predicted.chunk(2))
        fits_PNN = subject_PN[:, :, None] & object_PN[:, None, :]
        best_NNV = (fits_PNN[..., None] * probability_PV[:, None, None]).max(0)
        return best_NNV[~np.eye(len(given), dtype=bool)]

    def mean(self, scores_MV: Scores, counts: Callable[[str, str], bool] = lambda *_: True) -> float:
        """Returns the mean average precision over the predicates that have a true pair which counts.

        `counts`: whether a predicate counts with an object of this category. True pairs that don't are not ranked.
        """
        found = []
        for column, predicate in enumerate(self.predicates):
            counted = {name: counts(predicate, name) for _, name in self.names}
            ranked = ~self.truth[:, column] | np.array([counted[name] for _, name in self.names])
            if self.truth[ranked, column].any():
                found.append(average_precision(scores_MV[ranked, column], self.truth[ranked, column]))
        return float(np.mean(found))

    def features(self, categories: Sequence[str]) -> Tensor:
        """M×F: both boxes as shares of the image, the object's relative to the subject's, and both names."""
        boxes_M24 = np.array([self._boxes[image][[s, o]] / self._sizes[image] for image, s, o in self._ends])
        subject_M4, object_M4 = boxes_M24.transpose(1, 0, 2)
        relative_M4 = (object_M4 - subject_M4) / np.tile(subject_M4[:, 2:] - subject_M4[:, :2], 2)
        places = torch.from_numpy(np.concatenate((subject_M4, object_M4, relative_M4.clip(-4, 4)), axis=1)).float()
        names = torch.tensor([[categories.index(name) for name in pair] for pair in self.names])
        return torch.cat((places, F.one_hot(names, len(categories)).flatten(1)), dim=1)


def blind_scores(training: GivenBoxes, test: GivenBoxes, categories: Sequence[str], steps: int = 1500) -> Scores:
    """Returns M×V scores of the test's pairs by a network of three layers over boxes and names, trained on the others."""
    torch.manual_seed(0)
    known, wanted = training.features(categories), torch.from_numpy(training.truth).float()
    widths = (known.shape[1], 256, 256, wanted.shape[1])
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    head = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        batch = torch.randint(len(known), (512,))
        loss = F.binary_cross_entropy_with_logits(head(known[batch]), wanted[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        scores: Scores = head(test.features(categories)).numpy()
    return scores


def _corners(box: Mapping[str, Any]) -> tuple[float, float, float, float]:
    return box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]
