"""Predictions of a network: scores and boxes of subject-object pairs.

Shapes: B images, P pairs, To object texts (the last stands for "no objects"), Tv predicate texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Predictions:
    """Scores and boxes of P subject-object pairs per image.

    Class logits go through a softmax over the object texts, predicate logits through a sigmoid each.
    Boxes are (centre x, centre y, width, height), normalised by the image size without padding.
    """

    subject_logits: Tensor
    """B×P×To"""
    object_logits: Tensor
    """B×P×To"""
    predicate_logits: Tensor
    """B×P×Tv"""
    subject_boxes: Tensor
    """B×P×4"""
    object_boxes: Tensor
    """B×P×4"""
    predicate_features: Tensor | None = None
    """Tv×E: features of the predicate texts before fusion, where the network encoded the texts itself"""
    auxiliary: list[Predictions] = field(default_factory=list)
    """Predictions of the earlier decoder layers, first layer first."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of this layer by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
