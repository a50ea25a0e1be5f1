"""Assignment of targets to predictions (docs/networks.md, 6).

Shapes: K layers, B images, P pairs, N target pairs of an image (padded to the largest number), To and Tv texts,
M matched pairs, the sum of min(N, P) over the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.boxes import cxcywh_to_xyxy, giou
from models.predictions import Predictions, Target


@dataclass(frozen=True)
class MatchWeights:
    """Weight of each term of the cost. The defaults are those of the released scripts."""

    object_class: float = 1.0
    subject_class: float = 1.0
    predicates: float = 1.0
    box: float = 2.5
    giou: float = 1.0


@dataclass
class Matches:
    """K×M indices of matched predictions and targets; images are in order, the same in every layer."""

    image: Tensor
    query: Tensor
    target: Tensor
    """Index into the targets of all images, concatenated in order."""


@torch.no_grad()
def hungarian(
    layers: Predictions, targets: list[Target], weights: MatchWeights, official_compat: bool = False
) -> Matches:
    """Finds the cheapest one-to-one assignment for each layer of each image. Costs are 32-bit, also under autocast."""
    counts = [len(target.object_labels) for target in targets]
    with torch.autocast(layers.object_logits.device.type, enabled=False):
        costs_KBPN = matching_costs(layers.float(), [t.float() for t in targets], weights, official_compat)
    costs = costs_KBPN.cpu().double().numpy()
    if not np.isfinite(costs).all():
        raise FloatingPointError("predictions are not finite and cannot be matched")
    starts = np.concatenate(([0], np.cumsum(counts)))
    rows = []
    for layer_costs in costs:
        found = [
            (image, *linear_sum_assignment(cost[:, :count]))
            for image, (cost, count) in enumerate(zip(layer_costs, counts, strict=True))
        ]
        rows.append(
            np.concatenate(
                [
                    np.stack((np.full(len(query), image), query, starts[image] + target))
                    for image, query, target in found
                ],
                axis=1,
            )
        )
    image, query, target = torch.from_numpy(np.stack(rows)).to(layers.object_logits.device, non_blocking=True).unbind(1)
    return Matches(image, query, target)


def matching_costs(
    layers: Predictions, targets: list[Target], weights: MatchWeights, official_compat: bool = False
) -> Tensor:
    """Returns costs K×B×P×N; columns beyond an image's own pairs are meaningless."""
    subject_labels_BN = _padded([t.subject_labels for t in targets])
    object_labels_BN = _padded([t.object_labels for t in targets])
    class_cost = -(
        weights.subject_class * _of_labels(layers.subject_logits, subject_labels_BN)
        + weights.object_class * _of_labels(layers.object_logits, object_labels_BN)
    )
    cost = class_cost + weights.predicates * _predicate_cost(layers.predicate_logits, targets)

    subject_BN4, object_BN4 = _padded([t.subject_boxes for t in targets]), _padded([t.object_boxes for t in targets])
    exists_BN = (object_BN4 != 0).any(-1)[:, None]
    subject_l1 = torch.cdist(layers.subject_boxes, subject_BN4, p=1)
    object_l1 = torch.cdist(layers.object_boxes, object_BN4, p=1) * exists_BN
    subject_giou = -_pairwise_giou(layers.subject_boxes, subject_BN4)
    object_giou = -_pairwise_giou(layers.object_boxes, object_BN4)
    object_giou = torch.where(exists_BN, object_giou, object_giou + subject_giou if official_compat else subject_giou)
    return (
        cost
        + weights.box * torch.maximum(subject_l1, object_l1)
        + weights.giou * torch.maximum(subject_giou, object_giou)
    )


def _padded(parts: list[Tensor]) -> Tensor:
    return pad_sequence(parts, batch_first=True)


def _of_labels(logits_KBPT: Tensor, labels_BN: Tensor) -> Tensor:
    """Returns the probability K×B×P×N of each target's label."""
    layers, _, pairs, _ = logits_KBPT.shape
    index = labels_BN[None, :, None].expand(layers, -1, pairs, -1)
    return logits_KBPT.softmax(-1).gather(-1, index)


def _predicate_cost(logits_KBPT: Tensor, targets: list[Target]) -> Tensor:
    """Returns minus the average of two means: the score of true predicates, and 1 - score of the others."""
    truth_BTN = _padded([t.predicates for t in targets]).transpose(1, 2)
    known_BN = _padded([t.predicate_known for t in targets])[:, None]
    scores = logits_KBPT.sigmoid()
    true_mean = scores @ (truth_BTN / (truth_BTN.sum(1, keepdim=True) + 1e-4))
    false_mean = (1 - scores) @ ((1 - truth_BTN) / ((1 - truth_BTN).sum(1, keepdim=True) + 1e-4))
    return -(true_mean + false_mean) / 2 * known_BN


def _pairwise_giou(predicted_KBP4: Tensor, target_BN4: Tensor) -> Tensor:
    return giou(cxcywh_to_xyxy(predicted_KBP4)[..., :, None, :], cxcywh_to_xyxy(target_BN4)[:, None])
