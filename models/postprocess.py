"""Converts predictions into the scored pairs that evaluation reads (docs/networks.md, 5).

Shapes: B images, P pairs, To object texts (the last for "no objects"), Tv predicate texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.boxes import cxcywh_to_xyxy
from models.predictions import Predictions


@dataclass
class Pairs:
    """Scored pairs of one image; boxes are xyxy in pixels of the requested size."""

    subject_labels: Tensor
    """P"""
    object_labels: Tensor
    """P"""
    subject_scores: Tensor
    """P"""
    object_scores: Tensor
    """P"""
    subject_boxes: Tensor
    """P×4"""
    object_boxes: Tensor
    """P×4"""
    predicate_scores: Tensor
    """P×Tv, ready for ranking"""

    def where(self, keep: Tensor) -> Pairs:
        """Returns the pairs for which `keep` is True."""
        return Pairs(**{name: value[keep] for name, value in vars(self).items()})


@torch.no_grad()
def hoi(predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Pairs]:
    """Scores pairs for HICO-DET: predicate * object class. Sizes are (height, width) in pixels."""
    return [_scored(pairs, pairs.object_scores) for pairs in _pairs(predictions, sizes)]


@torch.no_grad()
def zero_shot(predictions: Predictions, sizes: list[tuple[int, int]], subject: int) -> list[Pairs]:
    """Same as `hoi`, but only of pairs whose most likely subject is the object text with index `subject`."""
    return [pairs.where(pairs.subject_labels == subject) for pairs in hoi(predictions, sizes)]


@torch.no_grad()
def scene_graph(predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Pairs]:
    """Scores pairs for Open Images: predicate * object class * subject class."""
    return [_scored(pairs, pairs.object_scores * pairs.subject_scores) for pairs in _pairs(predictions, sizes)]


def _pairs(predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Pairs]:
    """Returns pairs whose labels exclude "no objects"; predicate scores are not yet multiplied by class scores."""
    if predictions.object_logits.shape[-1] < 2:
        raise ValueError('"no objects" is the only object text, so there is nothing to find; add names of objects')
    subject_scores, subject_labels = predictions.subject_logits.softmax(-1)[..., :-1].max(-1)
    object_scores, object_labels = predictions.object_logits.softmax(-1)[..., :-1].max(-1)
    predicates = predictions.predicate_logits.sigmoid()
    scale_B14 = torch.tensor([(w, h, w, h) for h, w in sizes], device=predicates.device)[:, None]
    subject_boxes = cxcywh_to_xyxy(predictions.subject_boxes) * scale_B14
    object_boxes = cxcywh_to_xyxy(predictions.object_boxes) * scale_B14
    columns = (subject_labels, object_labels, subject_scores, object_scores, subject_boxes, object_boxes, predicates)
    return [Pairs(*row) for row in zip(*columns, strict=True)]


def _scored(pairs: Pairs, confidence_P: Tensor) -> Pairs:
    return Pairs(**(vars(pairs) | {"predicate_scores": pairs.predicate_scores * confidence_P[:, None]}))
