"""Predictions of all decoder layers, stacked into one set of tensors.

Shapes: K layers, B images, P pairs, To object texts, Tv predicate texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.predictions import Predictions


@dataclass
class StackedPredictions:
    """`Predictions` with a leading axis of K layers: the last decoder layer first, then the auxiliary ones."""

    subject_logits: Tensor
    object_logits: Tensor
    predicate_logits: Tensor
    subject_boxes: Tensor
    object_boxes: Tensor

    @classmethod
    def of(cls, predictions: Predictions) -> StackedPredictions:
        """Stacks predictions with their auxiliary ones."""
        layers = [predictions, *predictions.auxiliary]
        return cls(
            subject_logits=torch.stack([x.subject_logits for x in layers]),
            object_logits=torch.stack([x.object_logits for x in layers]),
            predicate_logits=torch.stack([x.predicate_logits for x in layers]),
            subject_boxes=torch.stack([x.subject_boxes for x in layers]),
            object_boxes=torch.stack([x.object_boxes for x in layers]),
        )

    def float(self) -> StackedPredictions:
        """Returns the same predictions in 32 bits."""
        return StackedPredictions(**{name: value.float() for name, value in vars(self).items()})
