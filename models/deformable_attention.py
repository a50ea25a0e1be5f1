"""Multi-scale deformable attention (Zhu et al., 2021, section 4.1).

Shapes: B images, Q queries, S tokens of all levels, L levels, K sampling points per level, LK both in one axis,
M heads, C = D / M channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.deformable_read import read, read_on_cpu


@dataclass
class References:
    """Where queries look: an offset o reads the place `base + o * scale`, in cells of its level (see `read`)."""

    base: Tensor
    """B×Q×1×2×LK"""
    scale: Tensor | None
    """B×Q×1×2×LK; None when offsets count cells."""

    @classmethod
    def at_points(cls, points_BQL2: Tensor, shapes: list[tuple[int, int]], points: int) -> References:
        """Builds references at points in [0, 1]; offsets count cells of each level."""
        # Cells are counted from the centre of the first, half a cell into the map.
        return cls(_for_points(points_BQL2 * _sizes(points_BQL2, shapes) - 0.5, points), None)

    @classmethod
    def in_boxes(cls, boxes_BQL4: Tensor, shapes: list[tuple[int, int]], points: int) -> References:
        """Builds references in cxcywh boxes; offsets are scaled by half the box size over the number of points."""
        size_L2 = _sizes(boxes_BQL4, shapes)
        base_BQL2 = boxes_BQL4[..., :2] * size_L2 - 0.5
        scale_BQL2 = boxes_BQL4[..., 2:] * size_L2 / (2 * points)
        return cls(_for_points(base_BQL2, points), _for_points(scale_BQL2, points))

    def to(self, dtype: torch.dtype) -> References:
        """Returns the references in another precision."""
        return References(self.base.to(dtype), None if self.scale is None else self.scale.to(dtype))


def _sizes(like: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    # A compiler keeps constants by itself, and cannot trace the cache.
    make = _make_sizes if torch.compiler.is_compiling() else _kept_sizes
    return make(tuple(shapes), like.dtype, like.device)


def _make_sizes(shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns L×2 widths and heights."""
    sizes_L2 = torch.tensor([(width, height) for height, width in shapes], dtype=dtype)
    return sizes_L2.to(device, non_blocking=True)


@lru_cache
def _kept_sizes(shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Caches them: each layer reads them again, and a CUDA graph must not copy them from the CPU."""
    # A cached tensor of inference mode could not be saved for a later backward pass.
    with torch.inference_mode(False):
        return _make_sizes(shapes, dtype, device)


def _for_points(values_BQL2: Tensor, points: int) -> Tensor:
    return values_BQL2.transpose(2, 3).repeat_interleave(points, dim=3)[:, :, None]


class DeformableAttention(nn.Module):
    """Lets each query read `points` places of every level, at learned offsets from its reference."""

    def __init__(self, width: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        """Starts offsets on a star, farther out for later points, and weights uniform."""
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
        """Returns B×Q×D. Tokens whose padding is True read as zero."""
        value_BSD = self.value_proj(memory_BSD)
        if padding_BS is not None:
            value_BSD = value_BSD.masked_fill(padding_BS[:, :, None], 0.0)
        value_BSMC = value_BSD.unflatten(2, (self.heads, -1))
        offsets_BQM2LK, weights_BQMLK = self._offsets_and_weights(queries_BQD)
        # Under autocast, only the references are guaranteed to keep their precision.
        precision = references.base.dtype
        if value_BSD.is_cpu:
            if references.scale is not None:
                offsets_BQM2LK = offsets_BQM2LK * references.scale
            places_BQM2LK = references.base + offsets_BQM2LK
            weights_BQMLK = weights_BQMLK.softmax(-1, dtype=precision)
            read_BQMC = read_on_cpu(value_BSMC, places_BQM2LK, weights_BQMLK, tuple(shapes))
        else:
            # A GPU reads head by head.
            offsets_BMQ2LK = offsets_BQM2LK.transpose(1, 2).contiguous().to(precision)
            if references.scale is not None:
                offsets_BMQ2LK = offsets_BMQ2LK * references.scale.transpose(1, 2)
            places_BMQ2LK = offsets_BMQ2LK.add_(references.base.transpose(1, 2))
            weights_BMQLK = weights_BQMLK.transpose(1, 2).contiguous().to(precision).softmax(-1)
            per_head = places_BMQ2LK.flatten(0, 1), weights_BMQLK.flatten(0, 1)
            read_NQC = read(value_BSMC.transpose(1, 2), *per_head, tuple(shapes))
            read_BQMC = read_NQC.unflatten(0, (-1, self.heads)).transpose(1, 2)
        attended: Tensor = self.output_proj(read_BQMC.flatten(2))
        return attended

    def offset_weights(self) -> tuple[Tensor, Tensor]:
        """Returns weight and bias of the offsets, reordered from M×LK×2, as stored, to M×2×LK, as used."""
        layer = self.sampling_offsets
        weight, bias = (
            x.unflatten(0, (self.heads, -1, 2)).transpose(1, 2).flatten(0, 2) for x in (layer.weight, layer.bias)
        )
        return weight, bias

    def _offsets_and_weights(self, queries_BQD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the offsets, B×Q×M×2×LK, and the weights before the softmax, B×Q×M×LK."""
        # Reordering the weights is cheaper than reordering the offsets of all queries.
        offsets = F.linear(queries_BQD, *self.offset_weights()).unflatten(2, (self.heads, 2, -1))
        return offsets, self.attention_weights(queries_BQD).unflatten(2, (self.heads, -1))
