"""Assignment of targets to pair predictions, and their losses (docs/networks.md, 6). Criteria compute both in 32 bits.

Shapes: K layers, B images, P pairs, N target pairs of an image (padded to the largest number), To object texts (the
last for "no objects"), Tv predicate texts, M matched pairs of all images, E text width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.boxes import cxcywh_to_xyxy, giou
from models.config import LossSettings
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
    """Finds the cheapest one-to-one assignment for each layer of each image. Takes 32-bit values."""
    counts = [len(target.object_labels) for target in targets]
    # All layers and images at once, so that the device is waited for once
    costs = matching_costs(layers, targets, weights, official_compat).cpu().double().numpy()
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
    # For a relation without object, the authors add the overlap with its box of zeros.
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
    # 1e-4 as in QPIC, for pairs without any predicate, or with all of them
    true_mean = scores @ (truth_BTN / (truth_BTN.sum(1, keepdim=True) + 1e-4))
    false_mean = (1 - scores) @ ((1 - truth_BTN) / ((1 - truth_BTN).sum(1, keepdim=True) + 1e-4))
    return -(true_mean + false_mean) / 2 * known_BN


def _pairwise_giou(predicted_KBP4: Tensor, target_BN4: Tensor) -> Tensor:
    return giou(cxcywh_to_xyxy(predicted_KBP4)[..., :, None, :], cxcywh_to_xyxy(target_BN4)[:, None])


class SetCriterion(nn.Module):
    """Loss of predictions that are matched to the targets."""

    def __init__(
        self, settings: LossSettings | None = None, *, match: MatchWeights | None = None, official_compat: bool = False
    ) -> None:
        """`official_compat`: normalise terms and differentiate pseudo-labels as the authors' code does."""
        super().__init__()
        self.settings, self.match = settings or LossSettings(), match or MatchWeights()
        self.official_compat = official_compat

    def forward(
        self, predictions: Predictions, targets: list[Target], predicate_features_TE: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns scalars: `loss`, the weighted total, and each term; terms of auxiliary layers end in _0, _1, ...

        `predicate_features_TE` (before fusion) are required for pseudo predicates only.
        """
        with torch.autocast(predictions.object_logits.device.type, enabled=False):
            features_TE = None if predicate_features_TE is None else predicate_features_TE.float()
            return self._losses(predictions.stacked().float(), [t.float() for t in targets], features_TE)

    def _losses(self, layers: Predictions, targets: list[Target], features_TE: Tensor | None) -> dict[str, Tensor]:
        matches = hungarian(layers, targets, self.match, self.official_compat)
        wanted_NT = torch.cat([target.predicates for target in targets])
        if self.settings.pseudo_predicates:
            if features_TE is None:
                raise ValueError("pseudo predicates require predicate_features_TE, the texts' features before fusion")
            wanted_NT = wanted_NT + pseudo_labels(
                features_TE if self.official_compat else features_TE.detach(), wanted_NT
            )
        counted_BP = torch.ones(layers.object_logits.shape[1:3], dtype=torch.bool, device=wanted_NT.device)
        return _losses(layers, targets, matches, wanted_NT, counted_BP, self.settings, self.official_compat)


class TaggerCriterion(nn.Module):
    """Loss of predictions that belong to the targets at the same positions."""

    def __init__(self, settings: LossSettings | None = None, *, official_compat: bool = False) -> None:
        """`official_compat`: normalise terms as the authors' code does."""
        super().__init__()
        self.settings = settings or LossSettings(localised_predicates=False)
        self.official_compat = official_compat

    def forward(self, predictions: Predictions, targets: list[Target]) -> dict[str, Tensor]:
        """Same as `SetCriterion`; an image's first predictions belong to its target pairs, the others are empty."""
        with torch.autocast(predictions.object_logits.device.type, enabled=False):
            return self._losses(predictions.stacked().float(), [t.float() for t in targets])

    def _losses(self, layers: Predictions, targets: list[Target]) -> dict[str, Tensor]:
        counts = [len(target.object_labels) for target in targets]
        device = layers.object_logits.device
        # Made on the device from plain numbers: a tensor of counts would have to be copied there.
        query_M = torch.cat([torch.arange(count, device=device) for count in counts])
        image_M = torch.cat([torch.full((count,), image, device=device) for image, count in enumerate(counts)])
        target_M = torch.arange(sum(counts), device=device)
        depth = len(layers.object_logits)
        matches = Matches(*(x.expand(depth, -1) for x in (image_M, query_M, target_M)))
        slots = torch.arange(layers.object_logits.shape[2], device=device)
        counted_BP = torch.stack([slots < count for count in counts])
        wanted_NT = torch.cat([target.predicates for target in targets])
        return _losses(layers, targets, matches, wanted_NT, counted_BP, self.settings, self.official_compat)


def _losses(
    layers: Predictions,
    targets: list[Target],
    matches: Matches,
    wanted_NT: Tensor,
    counted_BP: Tensor,
    settings: LossSettings,
    official_compat: bool,
) -> dict[str, Tensor]:
    """Returns the means of the terms and their weighted total."""
    true_NT = torch.cat([target.predicates for target in targets])
    # To the authors' CornerNet loss, a predicate of less confidence than 1 is not a label.
    labelled_NT = true_NT == 1 if official_compat else true_NT > 0
    sums, counts = _terms(layers, targets, matches, wanted_NT, labelled_NT, counted_BP, settings)
    divisors = {name: count.clamp(min=1) for name, count in counts.items()}
    if official_compat:
        objects = counts["object_box"] + 1e-4
        classes = {name: counts[name] for name in ("subject_class", "object_class")}
        divisors |= {**classes, "object_box": objects, "object_giou": objects}
    means = {name: total / divisors[name] for name, total in sums.items()}
    terms = {
        "loss_class": (settings.classes, means["subject_class"] + means["object_class"]),
        "loss_predicates": (settings.predicates, means["predicates"]),
        "loss_subject_box": (settings.box, means["subject_box"]),
        "loss_object_box": (settings.box, means["object_box"]),
        "loss_subject_giou": (settings.giou, means["subject_giou"]),
        "loss_object_giou": (settings.giou, means["object_giou"]),
    }
    report = {"loss": torch.stack([weight * values.sum() for weight, values in terms.values()]).sum()}
    for name, (_, values) in terms.items():
        last, *auxiliary = values.unbind()
        report |= {name: last, **{f"{name}_{layer}": value for layer, value in enumerate(auxiliary)}}
    return report


def _terms(
    layers: Predictions,
    targets: list[Target],
    matches: Matches,
    wanted_NT: Tensor,
    labelled_NT: Tensor,
    counted_BP: Tensor,
    settings: LossSettings,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the sums of the terms over the batch, and their divisors, each for K layers."""
    depth = len(layers.object_logits)
    at = (torch.arange(depth, device=matches.image.device)[:, None], matches.image, matches.query)
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for role, logits, labels in (
        ("subject", layers.subject_logits, [t.subject_labels for t in targets]),
        ("object", layers.object_logits, [t.object_labels for t in targets]),
    ):
        truth_KBP = torch.full(logits.shape[:3], logits.shape[3] - 1, device=logits.device)
        truth_KBP[at] = torch.cat(labels)[matches.target]
        weight_KBP = torch.where(truth_KBP == logits.shape[3] - 1, settings.background, 1.0) * counted_BP
        nll_KBP = -logits.log_softmax(-1).gather(-1, truth_KBP[..., None])[..., 0]
        sums[f"{role}_class"] = (nll_KBP * weight_KBP).flatten(1).sum(1)
        # As in torch's cross_entropy, the divisor is the sum of the weights, not their number.
        counts[f"{role}_class"] = weight_KBP.flatten(1).sum(1)

    quality = []
    for role, boxes, truth in (
        ("subject", layers.subject_boxes, [t.subject_boxes for t in targets]),
        ("object", layers.object_boxes, [t.object_boxes for t in targets]),
    ):
        found_KM4, truth_KM4 = boxes[at], torch.cat(truth)[matches.target]
        exists_KM = (truth_KM4 != 0).any(-1) | (role == "subject")
        overlap_KM = giou(cxcywh_to_xyxy(found_KM4), cxcywh_to_xyxy(truth_KM4))
        # Detached, as it is part of a target. Where there is no object, the subject's box alone decides.
        quality.append(overlap_KM.detach().masked_fill(~exists_KM, 1.0))
        sums[f"{role}_box"] = ((found_KM4 - truth_KM4).abs().sum(-1) * exists_KM).sum(1)
        sums[f"{role}_giou"] = ((1 - overlap_KM) * exists_KM).sum(1)
        counts[f"{role}_box"] = counts[f"{role}_giou"] = exists_KM.sum(1).to(overlap_KM.dtype)

    expected_KMT = wanted_NT[matches.target]
    if settings.localised_predicates:
        expected_KMT = (torch.minimum(*quality) + 1)[..., None] / 2 * expected_KMT
    goal = torch.zeros_like(layers.predicate_logits)
    goal[at] = expected_KMT
    if settings.localised_predicates:
        positive, loss_KBPT = goal > 0, quality_focal(layers.predicate_logits, goal)
    else:
        # Similar predicates, which are no labels, count as positive only where they are as good as the true one.
        positive = goal == 1
        positive[at] |= labelled_NT[matches.target]
        loss_KBPT = cornernet_focal(layers.predicate_logits, goal, positive)
    judged_KBP1 = (_judged(layers, targets, matches, at) & counted_BP)[..., None]
    sums["predicates"] = (loss_KBPT * judged_KBP1).flatten(1).sum(1)
    counts["predicates"] = (positive & judged_KBP1).flatten(1).sum(1).to(goal.dtype)
    return sums, counts


def _judged(layers: Predictions, targets: list[Target], matches: Matches, at: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Returns K×B×P: whether a prediction's predicates enter the loss.

    False where it stands for a pair with unknown predicates, and for all predictions if an image has only such pairs.
    """
    unknown_B = torch.stack([~t.predicate_known.any() & (len(t.predicate_known) > 0) for t in targets])
    judged_KBP = (~unknown_B)[None, :, None].expand(layers.predicate_logits.shape[:3]).clone()
    known_N = torch.cat([target.predicate_known for target in targets])
    judged_KBP[at] = known_N[matches.target]
    return judged_KBP


SIMILAR = 0.3


def quality_focal(logits: Tensor, goal: Tensor) -> Tensor:
    """Returns elementwise cross-entropy, weighted by the squared distance to a goal in [0, 1] (Li et al., 2020)."""
    score = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    entropy = -(goal * score.log() + (1 - goal) * (1 - score).log())
    return (goal - score).square() * entropy


def cornernet_focal(logits: Tensor, goal: Tensor, positive: Tensor) -> Tensor:
    """Returns an elementwise focal loss that penalises negatives less when their goal is high (Law and Deng, 2018).

    `positive` (bool) marks true labels, whose goal is a confidence. They use the quality focal loss: it is least where
    the score equals the confidence, and at confidence 1 it is CornerNet's term for positives.
    """
    score = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    negative = -(1 - score).log() * score.square() * (1 - goal) ** 4
    return torch.where(positive, quality_focal(logits, goal), negative)


def pseudo_labels(features_TE: Tensor, truth_NT: Tensor) -> Tensor:
    """Returns N×Tv similarities of predicate texts to those of the pair's true predicates; 0 for the true ones."""
    if truth_NT.numel() == 0:
        return torch.zeros_like(truth_NT)
    # Matrix products avoid a T×T×E tensor; double precision, because their terms cancel for similar texts.
    wide_TE = features_TE.double()
    distance_TT = torch.cdist(wide_TE + 1e-6, wide_TE, compute_mode="use_mm_for_euclid_dist").to(truth_NT.dtype)
    similarity_TT = distance_TT.max(1, keepdim=True).values - distance_TT
    positive_NT = truth_NT > 0
    summed_NT = truth_NT @ similarity_TT
    highest_N1 = summed_NT.max(1, keepdim=True).values
    share_NT = summed_NT / torch.where(highest_N1 > 0, highest_N1, 1.0)
    return torch.where(positive_NT | (share_NT <= SIMILAR), 0.0, share_NT)
