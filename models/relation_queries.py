"""Content of relation queries, computed from their subject and object (docs/networks.md, 4).

Shapes: B images, P pairs, D width, R branches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RelationQueries(nn.Module):
    """Multi-branch fusion: the sum of R low-rank bilinear branches.

    The matrices of all branches lie side by side in three square ones, which gives the same sum.
    """

    def __init__(self, width: int, branches: int) -> None:
        super().__init__()
        self.branches = branches
        self.fc_1 = nn.Linear(width, width)
        self.fc_2 = nn.Linear(width, width)
        self.fc_3 = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        """Initialises each branch as a layer of its own, with Xavier's rule."""
        with torch.no_grad():
            for layer, axis in ((self.fc_1, 0), (self.fc_2, 0), (self.fc_3, 1)):
                for branch in layer.weight.chunk(self.branches, dim=axis):
                    nn.init.xavier_uniform_(branch)
                nn.init.zeros_(layer.bias)

    def forward(self, subjects_BPD: Tensor, objects_BPD: Tensor) -> Tensor:
        """Returns B×P×D."""
        return F.relu(self.fc_3(F.relu(self.fc_1(subjects_BPD) * self.fc_2(objects_BPD))))
