"""Multi-scale deformable attention (Zhu et al., 2021, section 4.1) in plain PyTorch.

Shapes: B images, Q queries, S tokens of all levels, L levels, K sampling points a level, M heads, C = D / M channels.

Projections are computed channels first, so that each level's values and sampling grids are views of one tensor and
`grid_sample` reads them in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class References:
    """Where queries look: the grid coordinates ([-1, 1] over each level) of an offset o are `base + o * scale`."""

    base_B1L12Q: Tensor
    scale_B1L12Q: Tensor

    @classmethod
    def at_points(cls, points_BQL2: Tensor, shapes: list[tuple[int, int]]) -> References:
        """Offsets count cells of each level around points in [0, 1]."""
        size_L2 = points_BQL2.new_tensor([(w, h) for h, w in shapes])
        return cls(_queries_last(2 * points_BQL2 - 1), (2 / size_L2)[None, None, :, None, :, None])

    @classmethod
    def in_boxes(cls, boxes_BQL4: Tensor, points: int) -> References:
        """Offsets are scaled by half the cxcywh boxes' size and the number of points."""
        return cls(_queries_last(2 * boxes_BQL4[..., :2] - 1), _queries_last(boxes_BQL4[..., 2:] / points))


def _queries_last(values_BQL2: Tensor) -> Tensor:
    return values_BQL2.permute(0, 2, 3, 1)[:, None, :, None]


class DeformableAttention(nn.Module):
    """Each query reads `points` places of every level, at learned offsets from its reference."""

    def __init__(self, width: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        """Offsets start on a star, farther for later points; weights start uniform."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        star = torch.stack((angle.cos(), angle.sin()), dim=-1)
        star = star / star.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.points + 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(
                (star[:, None, None] * steps[:, None]).expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        queries_BQD: Tensor,
        references: References,
        memory_BSD: Tensor,
        shapes: list[tuple[int, int]],
        padding_BS: Tensor | None,
    ) -> Tensor:
        """B×Q×D. Tokens whose padding is True read as zero."""
        batch, heads = queries_BQD.shape[0], self.heads
        value_BDS = _channels_first(self.value_proj, memory_BSD)
        if padding_BS is not None:
            value_BDS = value_BDS.masked_fill(padding_BS[:, None], 0.0)
        value_NCS = value_BDS.view(batch * heads, -1, value_BDS.shape[-1])
        offsets = _channels_first(self.sampling_offsets, queries_BQD).view(
            batch, heads, self.levels, self.points, 2, -1)
        grid = torch.addcmul(references.base_B1L12Q, offsets, references.scale_B1L12Q).flatten(0, 1)
        weights = _channels_first(self.attention_weights, queries_BQD).view(
            batch * heads, self.levels * self.points, -1).softmax(1)
        weights_N1LKQ = weights.unflatten(1, (1, self.levels, self.points))
        output_NCQ: Tensor | None = None
        start = 0
        for level, (height, width) in enumerate(shapes):
            map_NCHW = value_NCS[:, :, start : start + height * width].unflatten(2, (height, width))
            start += height * width
            sampled_NCKQ = F.grid_sample(map_NCHW, grid[:, level].transpose(2, 3), align_corners=False)
            part_NCQ = (sampled_NCKQ * weights_N1LKQ[:, :, level]).sum(2)
            output_NCQ = part_NCQ if output_NCQ is None else output_NCQ + part_NCQ
        assert output_NCQ is not None
        read_BQD = output_NCQ.view(batch, -1, output_NCQ.shape[-1]).transpose(1, 2)
        return torch.baddbmm(self.output_proj.bias, read_BQD, self.output_proj.weight.t().expand(batch, -1, -1))


def _channels_first(layer: nn.Linear, x_BQD: Tensor) -> Tensor:
    """The linear layer's output as B×O×Q, contiguous."""
    weight = layer.weight.expand(x_BQD.shape[0], -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, x_BQD.transpose(1, 2))
