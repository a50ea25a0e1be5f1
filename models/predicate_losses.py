"""Losses of predicate scores and soft labels from similar texts (spec 4.3 and 4.4).

Shapes: ... any leading axes, Tv predicate texts, N pairs, E text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIMILAR = 0.3


def quality_focal(logits: Tensor, goal: Tensor) -> Tensor:
    """Elementwise cross-entropy with a goal in [0, 1], weighted by the squared distance to it (Li et al., 2020)."""
    score = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    entropy = -(goal * score.log() + (1 - goal) * (1 - score).log())
    return (goal - score).square() * entropy


def cornernet_focal(logits: Tensor, goal: Tensor) -> Tensor:
    """Elementwise focal loss that is milder on negatives with a high goal (Law and Deng, 2018)."""
    score = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    positive = -score.log() * (1 - score).square()
    negative = -(1 - score).log() * score.square() * (1 - goal) ** 4
    return torch.where(goal == 1, positive, negative)


def pseudo_labels(features_TE: Tensor, truth_NT: Tensor) -> Tensor:
    """N×Tv: how similar each predicate's text is to those of the pair's true predicates; 0 for the true ones."""
    if truth_NT.numel() == 0:
        return torch.zeros_like(truth_NT)
    # By products, which take no T×T×E numbers; in doubles, since they cancel where texts are alike.
    wide_TE = features_TE.double()
    distance_TT = torch.cdist(wide_TE + 1e-6, wide_TE, compute_mode="use_mm_for_euclid_dist").to(truth_NT.dtype)
    similarity_TT = distance_TT.max(1, keepdim=True).values - distance_TT
    positive_NT = truth_NT > 0
    summed_NT = truth_NT @ similarity_TT
    highest_N1 = summed_NT.max(1, keepdim=True).values
    share_NT = summed_NT / torch.where(highest_N1 > 0, highest_N1, 1.0)
    return torch.where(positive_NT | (share_NT <= SIMILAR), 0.0, share_NT)
