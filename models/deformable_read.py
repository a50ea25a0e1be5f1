"""The reading of deformable attention: each query's weighted sum of bilinear samples from maps of several levels.

Shapes: N images times heads, Q queries, S tokens of all levels, C channels a head, LK levels times points, R = 4·LK cells
around all points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Shapes = tuple[tuple[int, int], ...]
BLOCK = 2**18
"""Cells in work at a time: few enough to stay in the cache."""
SUM = 0
"""How embedding_bag names its mode."""


def read(value_NSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Shapes) -> Tensor:
    """N×Q×C. Places are (x, y) in cells of their level, 0 in the middle of the first; what lies outside reads as zero.

    All three tensors are of one dtype.
    """
    if value_NSC.is_cpu:
        read_NQC: Tensor = _Read.apply(value_NSC, places_NQ2LK, weights_NQLK, shapes)
        return read_NQC
    # Samples are computed again in the backward pass: kept, they would take most of the memory.
    sampled: Tensor = checkpoint(read_plainly, value_NSC, places_NQ2LK, weights_NQLK, shapes, use_reentrant=False)
    return sampled


def read_plainly(value_NSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Shapes) -> Tensor:
    """As `read`, level by level with grid_sample."""
    maps = value_NSC.transpose(1, 2).split([height * width for height, width in shapes], dim=2)
    samples = []
    for (height, width), level_NCS, places_NQ2K in zip(
        shapes, maps, places_NQ2LK.chunk(len(shapes), dim=3), strict=True
    ):
        size_2 = places_NQ2K.new_tensor((width, height))
        grid_NQK2 = (places_NQ2K.transpose(2, 3) * 2 + 1) / size_2 - 1
        samples.append(F.grid_sample(level_NCS.unflatten(2, (height, width)), grid_NQK2, align_corners=False))
    return (torch.cat(samples, dim=3) * weights_NQLK[:, None]).sum(3).transpose(1, 2)


class _Read(torch.autograd.Function):
    """On the CPU, a product of a sparse matrix (Q×S, R entries a row) with the values, for each image and head.

    The matrix is made in blocks that fit the cache (of few queries if they read much, of several heads if they read
    little), and again in the backward pass: it is as large as all else that a layer keeps.
    """

    @staticmethod
    def forward(ctx: Any, value_NSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Shapes) -> Tensor:
        ctx.save_for_backward(value_NSC, places_NQ2LK, weights_NQLK)
        ctx.levels = levels = _Levels(shapes, weights_NQLK.shape[2])
        read_NQC = value_NSC.new_empty((*weights_NQLK.shape[:2], value_NSC.shape[2]))
        for value_SC, *of_heads in _heads(weights_NQLK, value_NSC, weights_NQLK, places_NQ2LK, read_NQC):
            for weights_QLK, places_Q2LK, read_QC, first_Q in _blocks(*of_heads):
                cells = _Cells(places_Q2LK, first_Q, levels)
                entries_Q22LK = cells.shares() * weights_QLK[:, None, None]
                # Each of the four cells by itself: shorter sums round less.
                of_cells = F.embedding_bag(
                    cells.rows().flatten(0, 2), value_SC, mode="sum", per_sample_weights=entries_Q22LK.flatten(0, 2)
                )
                torch.sum(of_cells.unflatten(0, (-1, 4)), 1, out=read_QC)
        return read_NQC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NQC: Tensor) -> tuple[Tensor | None, ...]:
        value_NSC, places_NQ2LK, weights_NQLK = ctx.saved_tensors
        of_value, of_places, of_weights = gradients = tuple(x.new_empty(x.shape) for x in ctx.saved_tensors)
        for value_SC, of_value_SC, gradient_QC, weights_QLK, *of_heads in _heads(
            weights_NQLK, value_NSC, of_value, gradient_NQC, weights_NQLK, places_NQ2LK, of_weights, of_places
        ):
            entries_Q22LK = value_SC.new_empty((len(weights_QLK), 2, 2, weights_QLK.shape[1]))
            rows_Q22LK = torch.empty_like(entries_Q22LK, dtype=torch.int32)
            for weights, gradient, entries, rows, places, of_block_weights, of_block_places, first in _blocks(
                weights_QLK, gradient_QC, entries_Q22LK, rows_Q22LK, *of_heads
            ):
                cells = _Cells(places, first, ctx.levels)
                shares = cells.shares()
                torch.mul(shares, weights[:, None, None], out=entries)
                rows.copy_(cells.rows())
                of_entries = _products(gradient, value_SC, rows.flatten(1)).view_as(entries)
                torch.mul(cells.slopes(of_entries), weights[:, None], out=of_block_places)
                of_entries *= shares
                of_rows = of_entries[:, 0] + of_entries[:, 1]
                torch.add(of_rows[:, 0], of_rows[:, 1], out=of_block_weights)
            of_value_SC.copy_(_transposed_product(rows_Q22LK.flatten(1), entries_Q22LK, gradient_QC, len(value_SC)))
        return (*gradients, None)


def _heads(weights_NQLK: Tensor, value_NSC: Tensor, *others: Tensor) -> Iterator[list[Tensor]]:
    """Tensors (N×…) of as many images and heads as make a block, theirs one after the other; where each query's tokens
    begin comes last."""
    queries, tokens = weights_NQLK.shape[1], value_NSC.shape[1]
    heads = max(1, BLOCK // max(1, 4 * weights_NQLK[0].numel()))
    for group in zip(*(x.split(heads) for x in (value_NSC, *others)), strict=True):
        first_N = torch.arange(0, len(group[0]) * tokens, tokens, dtype=torch.int32)
        yield [*(x.flatten(0, 1) for x in group), first_N.repeat_interleave(queries)]


def _blocks(weights_QLK: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors in blocks of queries."""
    queries = max(1, BLOCK // (4 * max(1, weights_QLK.shape[1])))
    yield from zip(*(x.split(queries) for x in (weights_QLK, *others)), strict=True)


class _Levels:
    """For each point, the size of its level and where that starts among the tokens."""

    def __init__(self, shapes: Shapes, points: int) -> None:
        starts = [sum(height * width for height, width in shapes[:level]) for level in range(len(shapes))]
        self.width_LK, height_LK, self.start_LK = (
            torch.tensor(values, dtype=torch.int32).repeat_interleave(points // len(shapes))
            for values in ([width for _, width in shapes], [height for height, _ in shapes], starts)
        )
        self.size_2LK = torch.stack((self.width_LK, height_LK))


class _Cells:
    """The four cells around each place of a block of queries."""

    def __init__(self, places_Q2LK: Tensor, first_Q: Tensor, levels: _Levels) -> None:
        self.levels, self.start_QLK = levels, levels.start_LK + first_Q[:, None]
        floor_Q2LK = places_Q2LK.floor()
        part_Q2LK = places_Q2LK - floor_Q2LK
        first_Q2LK = floor_Q2LK.int()
        # Two cells an axis: which, whether it is inside the map, how much of it is in the sample.
        last_2LK = levels.size_2LK - 1
        self.cells = [x.clamp(min=0).minimum(last_2LK) for x in (first_Q2LK, first_Q2LK + 1)]
        self.inside = [clamped == cell for clamped, cell in zip(self.cells, (first_Q2LK, first_Q2LK + 1), strict=True)]
        self.axis_shares = [(1 - part_Q2LK) * self.inside[0], part_Q2LK * self.inside[1]]

    def rows(self) -> Tensor:
        """Q×2×2×LK, the tokens that the cells are: first by y, then by x."""
        y_Q2LK = torch.stack([cell[:, 1] for cell in self.cells], 1) * self.levels.width_LK
        y_Q2LK += self.start_QLK[:, None]
        return y_Q2LK[:, :, None] + torch.stack([cell[:, 0] for cell in self.cells], 1)[:, None]

    def shares(self) -> Tensor:
        """Q×2×2×LK: how much of each cell is in the sample, by y and x."""
        x, y = (torch.stack([share[:, axis] for share in self.axis_shares], 1) for axis in (0, 1))
        return y[:, :, None] * x[:, None]

    def slopes(self, of_shares_Q22LK: Tensor) -> Tensor:
        """Gradient of places Q×2×LK from that of shares."""
        (x0, y0), (x1, y1) = (share.unbind(1) for share in self.axis_shares)
        (in_x0, in_y0), (in_x1, in_y1) = (inside.unbind(1) for inside in self.inside)
        (of_00, of_01), (of_10, of_11) = (row.unbind(1) for row in of_shares_Q22LK.unbind(1))
        of_x = (of_01 * y0 + of_11 * y1) * in_x1 - (of_00 * y0 + of_10 * y1) * in_x0
        of_y = (of_10 * x0 + of_11 * x1) * in_y1 - (of_00 * x0 + of_01 * x1) * in_y0
        return torch.stack((of_x, of_y), dim=1)


def _products(first_QC: Tensor, table_SC: Tensor, rows_QR: Tensor) -> Tensor:
    """Q×R: the product of each row of the first matrix with the rows of the table that belong to it."""
    starts = torch.arange(0, rows_QR.numel(), rows_QR.shape[1], dtype=torch.int32)
    bag_of = torch.arange(len(rows_QR), dtype=torch.int32).repeat_interleave(rows_QR.shape[1])
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        first_QC, table_SC, rows_QR.flatten(), starts, bag_of, SUM
    )
    return products


def _transposed_product(rows_QR: Tensor, entries: Tensor, dense_QC: Tensor, count: int) -> Tensor:
    """count×C: the transposed sparse matrix times a dense one. PyTorch has no fast way."""
    starts = torch.arange(0, rows_QR.numel() + 1, rows_QR.shape[1], dtype=torch.int32)
    matrix = (entries.flatten().numpy(), rows_QR.flatten().numpy(), starts.numpy())
    sparse = csr_array(matrix, shape=(len(rows_QR), count), copy=False)
    return torch.from_numpy(sparse.T @ dense_QC.numpy())
