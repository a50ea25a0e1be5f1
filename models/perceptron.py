"""Small perceptrons for boxes, anchors and query scales.

Shapes: ... any leading axes.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs] + [hidden] * (layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ...×inputs to ...×outputs."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def box_head(width: int, from_point: bool) -> Perceptron:
    """Builds a head that predicts the change of a box in logits, initially none.

    `from_point`: the head starts from a point, so the box's size starts small instead of at half of the image.
    """
    head = Perceptron(width, width, 4, 3)
    last = head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if from_point:
        nn.init.constant_(last.bias.detach()[2:], -2.0)
    return head


def point_head(width: int) -> nn.Linear:
    """Builds a layer that predicts a point in logits from a query's position."""
    head = nn.Linear(width, 2)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head
