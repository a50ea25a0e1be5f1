"""Average precision by predicate on given boxes: of a network, and of a head that knows boxes and names but no pixels.

For every predicate, the ordered pairs of an image's boxes are ranked over all images.
Axes: M ordered pairs of all images, V predicates, P predicted pairs, N boxes of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
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
        self.rows, self.predicates = rows, tuple(predicates)
        boxes = [
            [(box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]) for box in row["boxes"]] for row in rows
        ]
        self._boxes = [np.array(corners, np.float64).reshape(-1, 4) for corners in boxes]
        self.ends = [(image, *pair) for image, its in enumerate(boxes) for pair in permutations(range(len(its)), 2)]
        place, column = ({each: number for number, each in enumerate(some)} for some in (self.ends, predicates))
        self.truth = np.zeros((len(self.ends), len(predicates)), bool)
        for image, row in enumerate(rows):
            for each in row["relations"]:
                if (name := canonical(each["predicate"])) in column:
                    self.truth[place[image, each["subject"], each["object"]], column[name]] = True

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
        objects = [self.rows[image]["boxes"][object_]["category"] for image, _, object_ in self.ends]
        found = []
        for column, predicate in enumerate(self.predicates):
            counted = {name: counts(predicate, name) for name in objects}
            ranked = ~self.truth[:, column] | np.array([counted[name] for name in objects])
            if self.truth[ranked, column].any():
                found.append(average_precision(scores_MV[ranked, column], self.truth[ranked, column]))
        return float(np.mean(found))

    def features(self, categories: Sequence[str]) -> Tensor:
        """Returns a row per pair: both boxes as shares of the image, one relative to the other, and one-hot names."""
        sizes = [(row["width"], row["height"]) * 2 for row in self.rows]
        both = np.array([self._boxes[image][pair] / sizes[image] for image, *pair in self.ends])
        subject_M4, object_M4 = both.transpose(1, 0, 2)
        relative_M4 = (object_M4 - subject_M4) / np.tile(subject_M4[:, 2:] - subject_M4[:, :2], 2)
        numbers = [[categories.index(box["category"]) for box in row["boxes"]] for row in self.rows]
        names = torch.tensor([[numbers[image][end] for end in pair] for image, *pair in self.ends])
        places = torch.from_numpy(np.concatenate((subject_M4, object_M4, relative_M4.clip(-4, 4)), axis=1))
        return torch.cat((places.float(), F.one_hot(names, len(categories)).flatten(1)), dim=1)


def blind_scores(training: GivenBoxes, test: GivenBoxes, categories: Sequence[str], steps: int = 1500) -> Scores:
    """Returns M×V scores of the test's pairs by a network of three layers over boxes and names, trained on the others."""
    torch.manual_seed(0)
    known, wanted = training.features(categories), torch.from_numpy(training.truth).float()
    layers = (
        nn.Linear(known.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, wanted.shape[1]),
    )  # fmt: skip
    head = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        batch = torch.randint(len(known), (512,))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(head(known[batch]), wanted[batch]).backward()
        optimizer.step()
    with torch.inference_mode():
        scores: Scores = head(test.features(categories)).numpy()
    return scores
