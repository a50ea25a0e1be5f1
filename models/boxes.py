"""Box arithmetic. cxcywh: centre x, centre y, width, height; xyxy: left, top, right, bottom. Any unit."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Converts ...×4 boxes from cxcywh to xyxy."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the generalised IoU (Rezatofighi et al., 2019) of xyxy boxes whose leading axes broadcast.

    It is in [-1, 1]; two boxes without area give a finite value, not NaN.
    """
    first_min, first_max, second_min, second_max = first[..., :2], first[..., 2:], second[..., :2], second[..., 2:]
    area_first, area_second = _area(first_max - first_min), _area(second_max - second_min)
    inner = _area((torch.minimum(first_max, second_max) - torch.maximum(first_min, second_min)).clamp(min=0))
    outer = _area((torch.maximum(first_max, second_max) - torch.minimum(first_min, second_min)).clamp(min=0))
    tiny = torch.finfo(first.dtype).tiny
    union = area_first + area_second - inner
    return inner / union.clamp(min=tiny) - (outer - union) / outer.clamp(min=tiny)


def _area(sides: Tensor) -> Tensor:
    if sides.is_cpu:  # where gradients keep the rounding of earlier training runs
        return sides.prod(-1)
    # The backward pass of `prod` would ask the device whether a side is zero.
    width, height = sides.unbind(-1)
    return width * height


def inverse_sigmoid(values: Tensor) -> Tensor:
    """Returns the logit of values p in [0, 1], with p and 1 - p clamped to at least 1e-5."""
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=1e-5) / (1 - values).clamp(min=1e-5))
