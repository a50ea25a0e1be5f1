"""The sampling step of deformable attention: each query's weighted sum of bilinear samples from maps of several levels.

Shapes: B images, M heads, N = B·M, Q queries, S tokens of all levels, C channels per head, LK levels times points,
R = 4·LK cells around all points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.deformable_read_triton import read_by_kernel, unfit

Shapes = tuple[tuple[int, int], ...]
BLOCK = 2**18
"""Number of cells processed at a time: few enough to stay in the cache."""
FRAME = 2
"""Width, in cells, of the frame of zeros around a map."""
SUM = 0
"""embedding_bag's number for the mode `sum`."""


def read(value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Shapes) -> Tensor:
    """Returns N×Q×C. Places are (x, y) in cells of their level, 0 at the centre of the first; outside, values are zero.

    Places and weights share one dtype, in which values are read. A GPU reads by kernels of Triton where it can, and
    otherwise logs once why it can't.
    """
    if value_BMSC.is_cpu:
        sides = [side for shape in shapes for side in shape]
        read_NQC: Tensor = _read_on_cpu(value_BMSC, places_NQ2LK, weights_NQLK, sides)[0]
        return read_NQC
    if value_BMSC.is_cuda and unfit(value_BMSC, places_NQ2LK, weights_NQLK, shapes) is None:
        return read_by_kernel(value_BMSC, places_NQ2LK, weights_NQLK, shapes)
    # The backward pass recomputes the samples: keeping them would take most of the memory.
    value_NSC = value_BMSC.flatten(0, 1).to(places_NQ2LK.dtype)
    sampled: Tensor = checkpoint(read_plainly, value_NSC, places_NQ2LK, weights_NQLK, shapes, use_reentrant=False)
    return sampled


def read_plainly(value_NSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Shapes) -> Tensor:
    """Same as `read`, level by level with grid_sample."""
    maps = value_NSC.transpose(1, 2).split([height * width for height, width in shapes], dim=2)
    samples = []
    for (height, width), level_NCS, places_NQ2K in zip(
        shapes, maps, places_NQ2LK.chunk(len(shapes), dim=3), strict=True
    ):
        x_NQK, y_NQK = places_NQ2K.unbind(2)
        grid_NQK2 = torch.stack(((x_NQK * 2 + 1) / width - 1, (y_NQK * 2 + 1) / height - 1), dim=-1)
        samples.append(F.grid_sample(level_NCS.unflatten(2, (height, width)), grid_NQK2, align_corners=False))
    return (torch.cat(samples, dim=3) * weights_NQLK[:, None]).sum(3).transpose(1, 2)


# An operator of its own, in which torch.compile does not look for what it could trace.
@torch.library.custom_op("rlip::read_on_cpu", mutates_args=(), device_types="cpu")
def _read_on_cpu(
    value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Multiplies a sparse matrix (Q×S, R entries per row) by the values, for each image and head.

    The matrix is built in blocks that fit the cache (of few queries if they read much, of several heads if they read
    little), and rebuilt in the backward pass, because it is as large as everything else that a layer keeps.

    Returns N×Q×C, and for the backward pass the framed maps.
    """
    maps = _Maps(_shapes(sides), weights_NQLK.shape[2])
    framed_NSC = maps.framed(value_BMSC, weights_NQLK.dtype)
    read_NQC = framed_NSC.new_empty((*weights_NQLK.shape[:2], framed_NSC.shape[2]))
    for framed_SC, *of_heads in _heads(weights_NQLK, framed_NSC, weights_NQLK, places_NQ2LK, read_NQC):
        for weights_QLK, places_Q2LK, read_QC, first_Q in _blocks(*of_heads):
            cells = _Cells(places_Q2LK, first_Q, maps)
            # The four cells are summed separately: shorter sums round less.
            of_cells = F.embedding_bag(
                cells.rows().flatten(0, 1),
                framed_SC,
                mode="sum",
                per_sample_weights=cells.entries(weights_QLK).flatten(0, 1),
            )
            first, second, third, fourth = of_cells.unflatten(0, (-1, 4)).unbind(1)
            # Same order as `sum`, which takes three times as long for so few terms.
            torch.add(first, second, out=read_QC).add_(third).add_(fourth)
    return read_NQC, framed_NSC


@_read_on_cpu.register_fake
def _(value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    images, heads, _, channels = value_BMSC.shape
    framed = sum((height + 2 * FRAME) * (width + 2 * FRAME) for height, width in _shapes(sides))
    read_NQC = weights_NQLK.new_empty((*weights_NQLK.shape[:2], channels))
    return read_NQC, weights_NQLK.new_empty((images * heads, framed, channels))


@torch.library.custom_op("rlip::read_on_cpu_backward", mutates_args=(), device_types="cpu")
def _gradients_on_cpu(
    gradient_NQC: Tensor, framed_NSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of the values (N×S×C, without frames), places and weights."""
    maps = _Maps(_shapes(sides), weights_NQLK.shape[2])
    of_framed, of_places, of_weights = (x.new_empty(x.shape) for x in (framed_NSC, places_NQ2LK, weights_NQLK))
    for framed_SC, of_framed_SC, gradient_QC, weights_QLK, *of_heads in _heads(
        weights_NQLK, framed_NSC, of_framed, gradient_NQC, weights_NQLK, places_NQ2LK, of_weights, of_places
    ):
        entries_Q4LK = framed_SC.new_empty((len(weights_QLK), 4, weights_QLK.shape[1]))
        rows_Q4LK = torch.empty_like(entries_Q4LK, dtype=torch.int32)
        for weights, gradient, entries, rows, places, of_block_weights, of_block_places, first in _blocks(
            weights_QLK, gradient_QC, entries_Q4LK, rows_Q4LK, *of_heads
        ):
            cells = _Cells(places, first, maps)
            cells.entries(weights, out=entries)
            cells.rows(out=rows)
            of_entries = _products(gradient, framed_SC, rows.flatten(1)).view_as(entries)
            cells.gradients(of_entries, weights, of_block_weights, of_block_places)
        of_framed_SC.copy_(_transposed_product(rows_Q4LK.flatten(1), entries_Q4LK, gradient_QC, len(framed_SC)))
    return maps.unframed(of_framed), of_places, of_weights


@_gradients_on_cpu.register_fake
def _(
    gradient_NQC: Tensor, framed_NSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    tokens = sum(height * width for height, width in _shapes(sides))
    of_value_NSC = framed_NSC.new_empty((len(framed_NSC), tokens, framed_NSC.shape[2]))
    return of_value_NSC, places_NQ2LK.new_empty(places_NQ2LK.shape), weights_NQLK.new_empty(weights_NQLK.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    value_BMSC, places_NQ2LK, weights_NQLK, ctx.sides = inputs
    ctx.of_value = value_BMSC.dtype, value_BMSC.shape[:2]
    ctx.save_for_backward(output[1], places_NQ2LK, weights_NQLK)
    # Nobody uses the framed maps outside, so their gradient is None instead of zeros as large as the maps.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient_NQC: Tensor | None, of_framed: None) -> tuple[Tensor | None, ...]:
    if gradient_NQC is None:
        return None, None, None, None
    of_value_NSC, of_places, of_weights = _gradients_on_cpu(gradient_NQC, *ctx.saved_tensors, ctx.sides)
    dtype, images_and_heads = ctx.of_value
    return of_value_NSC.unflatten(0, images_and_heads).to(dtype), of_places, of_weights, None


_read_on_cpu.register_autograd(_backward, setup_context=_keep)


def _shapes(sides: Sequence[int]) -> Shapes:
    return tuple(zip(sides[::2], sides[1::2], strict=True))


def _heads(weights_NQLK: Tensor, value_NSC: Tensor, *others: Tensor) -> Iterator[list[Tensor]]:
    """Yields the tensors (N×…) in groups of as many images and heads as fill a block, flattened into one axis; the
    index of each query's first token comes last."""
    queries, tokens = weights_NQLK.shape[1], value_NSC.shape[1]
    heads = max(1, BLOCK // max(1, 4 * weights_NQLK.shape[1:].numel()))
    for group in zip(*(x.split(heads) for x in (value_NSC, *others)), strict=True):
        first_N = torch.arange(0, len(group[0]) * tokens, tokens, dtype=torch.int32)
        yield [*(x.flatten(0, 1) for x in group), first_N.repeat_interleave(queries)]


def _blocks(weights_QLK: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields the tensors in blocks of queries."""
    queries = max(1, BLOCK // (4 * max(1, weights_QLK.shape[1])))
    yield from zip(*(x.split(queries) for x in (weights_QLK, *others)), strict=True)


class _Maps:
    """Adds a frame of zeros to maps, wide enough for the cells beside a place: places outside need no special case."""

    def __init__(self, shapes: Shapes, points: int) -> None:
        self.shapes = shapes
        self.framed_shapes = [(height + 2 * FRAME, width + 2 * FRAME) for height, width in shapes]
        self.sizes = [height * width for height, width in self.framed_shapes]
        starts = [sum(self.sizes[:level]) for level in range(len(shapes))]
        level_of_LK = torch.arange(len(shapes)).repeat_interleave(points // len(shapes))
        self.size_2LK = torch.tensor([[width, height] for height, width in shapes])[level_of_LK].T
        self.width_LK = torch.tensor([width for _, width in self.framed_shapes])[level_of_LK]
        # Indices count from the first cell inside the frame.
        first_LK = torch.tensor(starts)[level_of_LK] + FRAME * (self.width_LK + 1)
        steps = (torch.zeros_like(self.width_LK), 1, self.width_LK, self.width_LK + 1)
        self.corners_4LK = torch.stack([first_LK + step for step in steps]).int()

    def framed(self, value_BMSC: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the framed maps, N×S'×C."""
        images, heads, _, channels = value_BMSC.shape
        framed_NSC = value_BMSC.new_empty((images * heads, sum(self.sizes), channels), dtype=dtype)
        for map_NHWC in self._maps(framed_NSC):
            for edge in (slice(None, FRAME), slice(-FRAME, None)):
                map_NHWC[:, edge].zero_()
                map_NHWC[:, FRAME:-FRAME, edge].zero_()
        levels = value_BMSC.split([height * width for height, width in self.shapes], dim=2)
        for inner_NHWC, level_BMSC in zip(self._inner(framed_NSC), levels, strict=True):
            inner_BMHWC = inner_NHWC.unflatten(0, (images, heads))
            inner_BMHWC.copy_(level_BMSC.unflatten(2, inner_BMHWC.shape[2:4]))
        return framed_NSC

    def unframed(self, framed_NSC: Tensor) -> Tensor:
        """Returns the maps without their frames, N×S×C."""
        return torch.cat([inner.flatten(1, 2) for inner in self._inner(framed_NSC)], 1)

    def _inner(self, framed_NSC: Tensor) -> Iterator[Tensor]:
        for map_NHWC in self._maps(framed_NSC):
            yield map_NHWC[:, FRAME:-FRAME, FRAME:-FRAME]

    def _maps(self, framed_NSC: Tensor) -> Iterator[Tensor]:
        for level, shape in zip(framed_NSC.split(self.sizes, dim=1), self.framed_shapes, strict=True):
            yield level.unflatten(1, shape)


class _Cells:
    """The four cells around each place of a block of queries: upper left, upper right, lower left, lower right."""

    def __init__(self, places_Q2LK: Tensor, first_Q: Tensor, maps: _Maps) -> None:
        self.maps, self.first_Q = maps, first_Q
        size_2LK = maps.size_2LK.to(places_Q2LK.dtype)
        within_Q2LK = torch.clamp(places_Q2LK, torch.full_like(size_2LK, -FRAME), size_2LK)
        self.floor_Q2LK = within_Q2LK.floor()
        self.part_Q2LK = within_Q2LK.sub_(self.floor_Q2LK)

    def rows(self, out: Tensor | None = None) -> Tensor:
        """Returns the Q×4×LK indices of the cells' framed tokens. A NaN place gets a valid index, but NaN entries."""
        x_QLK, y_QLK = self.floor_Q2LK.unbind(1)
        cell_QLK = torch.addcmul(x_QLK, y_QLK, self.maps.width_LK.to(x_QLK.dtype)).nan_to_num_(0).int()
        return torch.add(cell_QLK.add_(self.first_Q[:, None])[:, None], self.maps.corners_4LK, out=out)

    def entries(self, weights_QLK: Tensor, out: Tensor | None = None) -> Tensor:
        """Returns Q×4×LK: each cell's share of its sample, times the sample's weight."""
        out = weights_QLK.new_empty((len(weights_QLK), 4, weights_QLK.shape[1])) if out is None else out
        x_QLK, y_QLK = self.part_Q2LK.unbind(1)
        lower_QLK = weights_QLK * y_QLK
        for left, row_QLK in ((0, weights_QLK - lower_QLK), (2, lower_QLK)):
            torch.mul(row_QLK, x_QLK, out=out[:, left + 1])
            torch.sub(row_QLK, out[:, left + 1], out=out[:, left])
        return out

    def gradients(
        self, of_entries_Q4LK: Tensor, weights_QLK: Tensor, of_weights_QLK: Tensor, of_places_Q2LK: Tensor
    ) -> None:
        """Writes the gradients of weights and places, given those of the entries without weights."""
        x_QLK, y_QLK = self.part_Q2LK.unbind(1)
        upper_left, upper_right, lower_left, lower_right = of_entries_Q4LK.unbind(1)
        upper_slope, lower_slope = upper_right - upper_left, lower_right - lower_left
        upper, lower = torch.addcmul(upper_left, x_QLK, upper_slope), torch.addcmul(lower_left, x_QLK, lower_slope)
        lower -= upper
        torch.addcmul(upper, y_QLK, lower, out=of_weights_QLK)
        torch.mul(lower, weights_QLK, out=of_places_Q2LK[:, 1])
        torch.mul(upper_slope.lerp_(lower_slope, y_QLK), weights_QLK, out=of_places_Q2LK[:, 0])


def _products(first_QC: Tensor, table_SC: Tensor, rows_QR: Tensor) -> Tensor:
    """Returns Q×R: the products of each row of the first matrix with the table rows that belong to it."""
    starts = torch.arange(0, rows_QR.numel(), rows_QR.shape[1], dtype=torch.int32)
    bag_of = torch.arange(len(rows_QR), dtype=torch.int32).repeat_interleave(rows_QR.shape[1])
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        first_QC, table_SC, rows_QR.flatten(), starts, bag_of, SUM
    )
    return products


def _transposed_product(rows_QR: Tensor, entries: Tensor, dense_QC: Tensor, count: int) -> Tensor:
    """Returns count×C: the transposed sparse matrix times a dense one, by SciPy, because PyTorch is slow here."""
    starts = torch.arange(0, rows_QR.numel() + 1, rows_QR.shape[1], dtype=torch.int32)
    matrix = (entries.flatten().numpy(), rows_QR.flatten().numpy(), starts.numpy())
    sparse = csr_array(matrix, shape=(len(rows_QR), count), copy=False)
    return torch.from_numpy(sparse.T @ dense_QC.numpy())
