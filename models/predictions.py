"""Predictions of a network, the ground truth that they are compared with, and the scored pairs that evaluation reads.

Shapes: K layers, B images, P predicted pairs, N true pairs, To object texts (the last stands for "no objects"), Tv
predicate texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from models.boxes import cxcywh_to_xyxy


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

    def map(self, change: Callable[[Tensor], Tensor]) -> Predictions:
        """Returns predictions with every tensor of every layer changed."""
        changed = {name: change(value) for name, value in self.tensors().items()}
        return Predictions(**changed, auxiliary=[layer.map(change) for layer in self.auxiliary])

    def float(self) -> Predictions:
        """Returns the same predictions in 32 bits, which losses and matching need, whatever the network computed in."""
        return self.map(Tensor.float)

    def stacked(self) -> Predictions:
        """Returns logits and boxes with a leading axis of K layers: this layer first, then the auxiliary ones."""
        layers, names = [self, *self.auxiliary], self.tensors().keys() - {"predicate_features"}
        return Predictions(
            **{name: torch.stack([getattr(layer, name) for layer in layers]) for name in names}, auxiliary=[]
        )


@dataclass
class Target:
    """The ground truth of one image, N pairs; boxes are cxcywh, normalised by the image size without padding."""

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


@torch.no_grad()
def hoi(predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Pairs]:
    """Scores pairs for HICO-DET: predicate * object class. Sizes are (height, width) in pixels."""
    return [_scored(pairs, pairs.object_scores) for pairs in _pairs(predictions, sizes)]


@torch.no_grad()
def scene_graph(predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Pairs]:
    """Scores pairs for Open Images: predicate * object class * subject class."""
    return [_scored(pairs, pairs.object_scores * pairs.subject_scores) for pairs in _pairs(predictions, sizes)]


def _pairs(predictions: Predictions, sizes: list[tuple[int, int]]) -> list[Pairs]:
    """Returns pairs whose labels exclude "no objects"; predicate scores are not yet multiplied by class scores."""
    if predictions.object_logits.shape[-1] < 2:
        raise ValueError('"no objects" is the only object text, so there is nothing to find; add object names')
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


def check_finite(values: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raises `FloatingPointError` that names the values that are not finite and the network's damaged weight, if any.

    A network does not check its own predictions, because that would wait for the device. The code that reads them does.
    """
    sound = torch.stack([value.isfinite().all() for value in values.values()])
    if sound.all():
        return
    name = list(values)[int(sound.int().argmin())]
    damaged = next((name for name, weight in network.named_parameters() if not weight.isfinite().all()), None)
    advice = (
        f"the weight {damaged} has one too: load undamaged weights, or train with a lower learning rate"
        if damaged
        else "all weights are finite: look for bad values in the images, or for weights too large for the precision"
    )
    raise FloatingPointError(f"{name}: a value is NaN or infinite; {advice}")
