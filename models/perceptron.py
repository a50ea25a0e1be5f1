"""Small perceptrons: of boxes, anchors and query scales.

Shapes: ... any leading axes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs] + [hidden] * (layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """...×inputs to ...×outputs."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def box_head(width: int) -> Perceptron:
    """Predicts the change of a box in logits; starts at no change."""
    head = Perceptron(width, width, 4, 3)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head
