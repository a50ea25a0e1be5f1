"""Networks, predictions, targets and queries with random values."""

from typing import TypeVar

import torch
from torch import nn

from models.predictions import Predictions, Target
from models.relation_tagger import PairQueries

M = TypeVar("M", bound=nn.Module)


def moved(network: M, by: float = 0.05) -> M:
    """Moves a network off its constant initial values, so that no effect is hidden by a zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return network


def make_boxes(*shape: int) -> torch.Tensor:
    """Boxes well inside the image."""
    return torch.rand(*shape, 4) * 0.4 + 0.2


def make_predictions(images: int = 2, layers: int = 2, pairs: int = 4, objects: int = 5) -> Predictions:
    """Leaves with gradients, of three predicates."""
    made = [
        Predictions(
            torch.randn(images, pairs, objects, requires_grad=True),
            torch.randn(images, pairs, objects, requires_grad=True),
            torch.randn(images, pairs, 3, requires_grad=True),
            make_boxes(images, pairs).requires_grad_(),
            make_boxes(images, pairs).requires_grad_(),
        )
        for _ in range(layers)
    ]
    made[0].auxiliary = made[1:]
    return made[0]


def make_target(pairs: int) -> Target:
    """Pairs of four kinds of objects, with three predicates."""
    labels = (torch.randint(0, 4, (pairs,)) for _ in range(2))
    predicates = (torch.rand(pairs, 3) > 0.5).float()
    return Target(*labels, make_boxes(pairs), make_boxes(pairs), predicates, torch.ones(pairs, dtype=torch.bool))


def make_queries(images: int, pairs: int) -> PairQueries:
    """Pairs of three kinds of objects."""
    labels = (torch.randint(0, 3, (images, pairs)) for _ in range(2))
    boxes = make_boxes(images, pairs), make_boxes(images, pairs)
    return PairQueries(*boxes, *labels, torch.ones(images, pairs, dtype=torch.bool))
