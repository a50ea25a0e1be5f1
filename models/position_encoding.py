"""Sine encodings of map positions (DETR) and of boxes (DAB-DETR).

Shapes: B images, H×W a feature map, Q queries, F features per coordinate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def encode_map(valid_BHW: Tensor, width: int, first: float = 1.0) -> Tensor:
    """Returns B×H·W×width encodings of a map's positions: half the features for y, then half for x.

    Positions count valid cells from `first` on and are normalised by their number, so padding does not move them.
    """
    y_BHW = valid_BHW.cumsum(1, dtype=torch.float32)
    x_BHW = valid_BHW.cumsum(2, dtype=torch.float32)
    y_BHW = (y_BHW + (first - 1)) / (y_BHW[:, -1:, :] + 1e-6)
    x_BHW = (x_BHW + (first - 1)) / (x_BHW[:, :, -1:] + 1e-6)
    return torch.cat((_waves(y_BHW, width // 2), _waves(x_BHW, width // 2)), dim=-1).flatten(1, 2)


def encode_boxes(boxes_BQ4: Tensor, width: int) -> Tensor:
    """Returns B×Q×2·width encodings of cxcywh boxes, in the order y, x, width, height."""
    x, y, w, h = boxes_BQ4.unbind(-1)
    return _waves(torch.stack((y, x, w, h), dim=-1), width // 2).flatten(2)


def _waves(positions: Tensor, features: int) -> Tensor:
    """Returns ...×features: sine on even, cosine on odd features, one frequency per pair; positions lie in [0, 1]."""
    pair = torch.arange(features // 2, dtype=torch.float32, device=positions.device)
    angle = positions[..., None] * (2 * math.pi) / TEMPERATURE ** (2 * pair / features)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
