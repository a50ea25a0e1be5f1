"""Multi-scale deformable attention (Zhu et al., 2021, section 4.1) in plain PyTorch.

Shapes: B images, Q queries, S tokens of all levels, L levels, K sampling points a level, M heads, N = B·M,
C = D / M channels.

Projections are computed channels first, so that each level's values and sampling grids are views of one tensor and
are read in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BILINEAR, ZEROS = 0, 0
"""How grid_sampler_2d names its interpolation and what lies outside a map."""
BLOCK = 2**19
"""Samples (numbers) in work at a time: few enough to stay in the cache."""


@dataclass
class References:
    """Where queries look: the grid coordinates ([-1, 1] over each level) of an offset o are `base + o * scale`."""

    base: Tensor
    """B×1×L×1×2×Q"""
    scale: Tensor
    """B×1×L×1×2×Q; the batch or the queries may be 1."""

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
                (star[:, None, None] * steps[:, None]).expand(-1, self.levels, -1, -1).flatten()
            )
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
        offsets = _channels_first(self.sampling_offsets, queries_BQD).view(
            batch, heads, self.levels, self.points, 2, -1
        )
        grid_NLK2Q = torch.addcmul(references.base, offsets, references.scale).flatten(0, 1)
        weights = (
            _channels_first(self.attention_weights, queries_BQD)
            .view(batch * heads, self.levels * self.points, -1)
            .softmax(1)
        )
        # Under autocast only the grid is sure to have kept the references' precision.
        read_NCQ = _Read.apply(
            value_BDS.view(batch * heads, -1, value_BDS.shape[-1]).to(grid_NLK2Q.dtype),
            grid_NLK2Q,
            weights.unflatten(1, (self.levels, self.points)).to(grid_NLK2Q.dtype),
            tuple(shapes),
        )
        read_BQD = read_NCQ.view(batch, -1, read_NCQ.shape[-1]).transpose(1, 2)
        return torch.baddbmm(self.output_proj.bias, read_BQD, self.output_proj.weight.t().expand(batch, -1, -1))


def _channels_first(layer: nn.Linear, x_BQD: Tensor) -> Tensor:
    """The linear layer's output as B×O×Q, contiguous."""
    weight = layer.weight.expand(x_BQD.shape[0], -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, x_BQD.transpose(1, 2))


class _Read(torch.autograd.Function):
    """The weighted sum of a bilinear reading of all levels.

    Samples are read again in the backward pass: keeping them would take C times the memory of their coordinates, and
    writing them costs more than computing them.
    """

    @staticmethod
    def forward(
        ctx: Any, value_NCS: Tensor, grid_NLK2Q: Tensor, weights_NLKQ: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.save_for_backward(value_NCS, grid_NLK2Q, weights_NLKQ)
        ctx.shapes = shapes
        read_NCQ = value_NCS.new_zeros((*value_NCS.shape[:2], grid_NLK2Q.shape[-1]))
        for rows in _blocks(value_NCS, grid_NLK2Q):
            for level, map_NCHW in enumerate(_maps(value_NCS[rows], shapes)):
                samples_NCKQ = _sample(map_NCHW, grid_NLK2Q[rows, level])
                read_NCQ[rows] += samples_NCKQ.mul_(weights_NLKQ[rows, None, level]).sum(2)
        return read_NCQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NCQ: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        value_NCS, grid_NLK2Q, weights_NLKQ = ctx.saved_tensors
        of_value, of_grid, of_weights = map(torch.empty_like, (value_NCS, grid_NLK2Q, weights_NLKQ))
        for rows in _blocks(value_NCS, grid_NLK2Q):
            gradient_NC1Q = gradient_NCQ[rows, :, None]
            targets = _maps(of_value[rows], ctx.shapes)
            for level, map_NCHW in enumerate(_maps(value_NCS[rows], ctx.shapes)):
                grid_NK2Q = grid_NLK2Q[rows, level]
                samples_NCKQ = _sample(map_NCHW, grid_NK2Q)
                of_weights[rows, level] = samples_NCKQ.mul_(gradient_NC1Q).sum(1)
                of_map, of_places = torch.ops.aten.grid_sampler_2d_backward(
                    gradient_NC1Q * weights_NLKQ[rows, None, level],
                    map_NCHW,
                    grid_NK2Q.transpose(2, 3),
                    BILINEAR,
                    ZEROS,
                    False,
                    (True, True),
                )
                targets[level].copy_(of_map)
                of_grid[rows, level] = of_places.transpose(2, 3)
        return of_value, of_grid, of_weights, None


def _blocks(value_NCS: Tensor, grid_NLK2Q: Tensor) -> list[slice]:
    points, queries = grid_NLK2Q.shape[2], grid_NLK2Q.shape[4]
    rows = max(1, BLOCK // (value_NCS.shape[1] * points * max(1, queries)))
    return [slice(first, first + rows) for first in range(0, len(value_NCS), rows)]


def _maps(value_NCS: Tensor, shapes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Views N×C×H×W of the levels."""
    levels = value_NCS.split([height * width for height, width in shapes], dim=2)
    return [level.unflatten(2, shape) for level, shape in zip(levels, shapes, strict=True)]


def _sample(map_NCHW: Tensor, grid_NK2Q: Tensor) -> Tensor:
    return torch.grid_sampler_2d(map_NCHW, grid_NK2Q.transpose(2, 3), BILINEAR, ZEROS, False)
