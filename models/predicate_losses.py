"""Focal losses of predicate scores, and soft labels for predicates with similar texts (docs/networks.md, 6).

Shapes: ... any leading axes, Tv predicate texts, N pairs, E text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIMILAR = 0.3


def quality_focal(logits: Tensor, goal: Tensor) -> Tensor:
    """Returns elementwise cross-entropy, weighted by the squared distance to a goal in [0, 1] (Li et al., 2020)."""
    score = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    entropy = -(goal * score.log() + (1 - goal) * (1 - score).log())
    return (goal - score).square() * entropy


def cornernet_focal(logits: Tensor, goal: Tensor, positive: Tensor) -> Tensor:
    """Returns an elementwise focal loss that penalises negatives less when their goal is high (Law and Deng, 2018).

    `positive` (bool) marks true labels, whose goal is a confidence. They have the quality focal loss: it is least where
    the score is the confidence, and at confidence 1 it is CornerNet's own term for positives.
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
