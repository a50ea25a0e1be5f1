"""Ground truth of an image's pairs.

Shapes: N pairs, Tv predicate texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class Target:
    """The N true pairs of one image; boxes are cxcywh, normalised by the image size without padding."""

    subject_labels: Tensor
    """N int64, indices into the object texts"""
    object_labels: Tensor
    """N int64"""
    subject_boxes: Tensor
    """N×4"""
    object_boxes: Tensor
    """N×4; all zeros where the relation has no object"""
    predicates: Tensor
    """N×Tv in [0, 1]: confidence of each true predicate, 0 for the others"""
    predicate_known: Tensor
    """N bool; False: the boxes are true, but the pair's predicates are unknown"""

    def float(self) -> Target:
        """Returns the same target with boxes and predicates in 32 bits."""
        floats = ("subject_boxes", "object_boxes", "predicates")
        return replace(self, **{name: getattr(self, name).float() for name in floats})
