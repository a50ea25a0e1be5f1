"""What a network says about pairs of boxes.

Shapes: B images, P pairs, To object texts (the last stands for "no objects"), Tv predicate texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Predictions:
    """Scores and boxes of P subject-object pairs an image.

    Class logits are for a softmax over the object texts, predicate logits for a sigmoid each.
    Boxes are (centre x, centre y, width, height), normalised by the size of the image without its padding.
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
    auxiliary: list[Predictions] = field(default_factory=list)
    """The same from the earlier decoder layers, first layer first."""
