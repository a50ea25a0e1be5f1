"""Triton kernels that read maps at places, and their gradients; `models.deformable_read_triton` launches them.

Import this module only where Triton is installed. Each kernel states the order of its sums. No sum's order, and so no
bit, depends on the configuration that tuning picks.

Shapes: N images times heads, Q queries of a program, S tokens of a program, P partial sums, C channels per head. In
memory, places are N×Q×2×LK, weights N×Q×LK, what was read and its gradient N×Q×C, all without gaps, with LK levels
times points. Values may have any strides but that of channels, which is 1; strides come in multiples of UNIT, so that
the compiler knows how far loads are aligned.

`levels` holds a number for each level, from `packed`: Triton compiles a kernel anew for each integer argument that is
1 or a multiple of 16, also within tuples, and a training run has images of many sizes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.testing import do_bench

PARTIAL_SUMS = 8
"""Number of partial sums over which the points that read a cell are spread. It is part of the order of summation."""


def packed(height: int, width: int) -> int:
    """Returns a level's height and width (below 2**30) as one odd number of 63 bits, which `_sides` takes apart."""
    return 1 << 62 | height << 32 | width << 1 | 1


def _milliseconds(call: Any, quantiles: tuple[float, ...]) -> list[float]:
    """Times a configuration. The interpreter and CUDA graphs allow no timing: all count as 0; the first is chosen."""
    if triton.knobs.runtime.interpret or torch.cuda.is_current_stream_capturing():
        return [0.0 for _ in quantiles]
    milliseconds: list[float] = do_bench(call, warmup=5, rep=20, quantiles=quantiles)
    return milliseconds


# A thread has at least 8 elements of a tile. With fewer, the compiler would give it fewer neighbouring channels, and
# the sums over channels would have another order than in the other configurations.
PER_QUERY = [
    triton.Config({"TILE": tile}, num_warps=warps) for tile, warps in ((512, 2), (256, 1), (1024, 4), (1024, 2))
]
PER_CELL = [
    triton.Config({"TILE": tile, "STAGES": stages}, num_warps=warps)
    for tile, warps, stages in ((512, 2, 1), (1024, 4, 1), (2048, 8, 1), (512, 2, 2), (1024, 4, 3))
]
KEY = ["size", "LEVELS", "POINTS", "CHANNELS"]
NOT_SPECIALIZED = ["size", "heads", "queries", "tokens", "image_stride", "head_stride", "token_stride"]


@triton.jit
def _sides(level):
    """Takes `packed` apart, as 32-bit numbers."""
    return ((level >> 32) & 0x3FFFFFFF).to(tl.int32), ((level >> 1) & 0x3FFFFFFF).to(tl.int32)


@triton.jit
def _around(places, at, gap, height, width, mask):
    """Returns column and row of the cell up and left of each place, and the fractions of the way to the next ones.

    A NaN place gets cell 0 and NaN fractions, as on a CPU, so the value read there is NaN.
    """
    x = tl.load(places + at, mask=mask, other=0.0)
    y = tl.load(places + at + gap, mask=mask, other=0.0)
    number = (x == x) & (y == y)
    # Comparisons with NaN are false, so it stays. Farther out, nothing is read anyway.
    x = tl.where(x < -2.0, -2.0, tl.where(x > width, width.to(tl.float32), x))
    y = tl.where(y < -2.0, -2.0, tl.where(y > height, height.to(tl.float32), y))
    left, top = tl.floor(x), tl.floor(y)
    return tl.where(number, left, 0.0).to(tl.int32), tl.where(number, top, 0.0).to(tl.int32), x - left, y - top


@triton.jit
def _cell(value, first, row, column, height, width, token_stride, UNIT: tl.constexpr, channel, mask):
    """Loads a cell of each place in 32 bits, Q×C; zero outside the map."""
    at, inside = _at_cell(first, row, column, height, width, token_stride, UNIT)
    return tl.load(value + at[:, None] + channel[None, :], mask=inside[:, None] & mask, other=0.0).to(tl.float32)


@triton.jit
def _at_cell(first, row, column, height, width, token_stride, UNIT: tl.constexpr):
    """Returns where a cell of each place lies in memory, and whether it is inside the map."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return (first + row * width + column) * token_stride * UNIT, inside


@triton.autotune(PER_QUERY, key=KEY, do_bench=_milliseconds)
@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def read_kernel(
    read, value, places, weights, levels, size, heads, queries, image_stride, head_stride, token_stride,
    UNIT: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Reads for a block of queries of one image and head: level by level, point by point, corner by corner."""
    # Only the maps of one image are sure to fit indices of 32 bits.
    n = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * (TILE // PADDED) + tl.arange(0, TILE // PADDED)
    channel = tl.arange(0, PADDED)
    there = query < queries
    mask = there[:, None] & (channel < CHANNELS)[None, :]
    value += (n // heads * image_stride + n % heads * head_stride) * UNIT
    places += n * queries * (2 * LEVELS * POINTS)
    weights += n * queries * (LEVELS * POINTS)
    read += n * queries * CHANNELS
    sum_QC = tl.full((TILE // PADDED, PADDED), 0.0, tl.float32)
    first = 0
    for level in tl.static_range(LEVELS):
        height, width = _sides(levels[level])
        for point in tl.range(POINTS):
            at = query * (LEVELS * POINTS) + level * POINTS + point
            weight = tl.load(weights + at, mask=there, other=0.0)
            at += query * (LEVELS * POINTS)
            column, row, x, y = _around(places, at, LEVELS * POINTS, height, width, there)
            lower = weight * y
            upper = weight - lower
            for corner in tl.static_range(4):
                side = upper if corner < 2 else lower
                right = side * x
                share = right if corner % 2 == 1 else side - right
                row_here, column_here = row + corner // 2, column + corner % 2
                cell_QC = _cell(value, first, row_here, column_here, height, width, token_stride, UNIT, channel, mask)
                sum_QC = tl.fma(share[:, None], cell_QC, sum_QC)
        first += height * width
    tl.store(read + (query * CHANNELS)[:, None] + channel[None, :], sum_QC, mask=mask)


@triton.autotune(PER_QUERY, key=KEY, do_bench=_milliseconds)
@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def query_gradients_kernel(
    of_places, of_weights, bins, gradient, value, places, weights, levels, size, heads, queries,
    image_stride, head_stride, token_stride,
    UNIT: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of places and weights for a block of queries, and the bin of each point.

    A bin holds the points of one image, head and level whose upper left cell is the same. A level of H×W cells has
    (H + 1)×(W + 1) bins, because points in the cells just above and left of the map still read it. Points farther out
    belong to no bin: theirs has the number after the last.
    """
    n = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * (TILE // PADDED) + tl.arange(0, TILE // PADDED)
    channel = tl.arange(0, PADDED)
    there = query < queries
    mask = there[:, None] & (channel < CHANNELS)[None, :]
    value += (n // heads * image_stride + n % heads * head_stride) * UNIT
    places += n * queries * (2 * LEVELS * POINTS)
    of_places += n * queries * (2 * LEVELS * POINTS)
    weights += n * queries * (LEVELS * POINTS)
    of_weights += n * queries * (LEVELS * POINTS)
    bins += n * queries * (LEVELS * POINTS)
    gradient += n * queries * CHANNELS
    all_bins = 0
    for level in tl.static_range(LEVELS):
        height, width = _sides(levels[level])
        all_bins += (height + 1) * (width + 1)
    no_bin = tl.num_programs(1) * all_bins
    first_bin = n.to(tl.int32) * all_bins
    gradient_QC = tl.load(gradient + (query * CHANNELS)[:, None] + channel[None, :], mask=mask, other=0.0)
    first = 0
    for level in tl.static_range(LEVELS):
        height, width = _sides(levels[level])
        for point in tl.range(POINTS):
            at = query * (LEVELS * POINTS) + level * POINTS + point
            weight = tl.load(weights + at, mask=there, other=0.0)
            at_place = at + query * (LEVELS * POINTS)
            column, row, x, y = _around(places, at_place, LEVELS * POINTS, height, width, there)
            upper_left_QC = _cell(value, first, row, column, height, width, token_stride, UNIT, channel, mask)
            upper_right_QC = _cell(value, first, row, column + 1, height, width, token_stride, UNIT, channel, mask)
            lower_left_QC = _cell(value, first, row + 1, column, height, width, token_stride, UNIT, channel, mask)
            lower_right_QC = _cell(value, first, row + 1, column + 1, height, width, token_stride, UNIT, channel, mask)
            upper_left, upper_right = tl.sum(gradient_QC * upper_left_QC, 1), tl.sum(gradient_QC * upper_right_QC, 1)
            lower_left, lower_right = tl.sum(gradient_QC * lower_left_QC, 1), tl.sum(gradient_QC * lower_right_QC, 1)
            upper_slope, lower_slope = upper_right - upper_left, lower_right - lower_left
            upper, lower = tl.fma(x, upper_slope, upper_left), tl.fma(x, lower_slope, lower_left)
            tl.store(of_weights + at, tl.fma(y, lower - upper, upper), mask=there)
            slope = tl.fma(y, lower_slope - upper_slope, upper_slope)
            tl.store(of_places + at_place, slope * weight, mask=there)
            tl.store(of_places + at_place + LEVELS * POINTS, (lower - upper) * weight, mask=there)
            in_bin = (row >= -1) & (row < height) & (column >= -1) & (column < width)
            bin_of = tl.where(in_bin, first_bin + (row + 1) * (width + 1) + column + 1, no_bin)
            tl.store(bins + at, bin_of, mask=there)
        first += height * width
        first_bin += (height + 1) * (width + 1)


@triton.autotune(PER_CELL, key=KEY, do_bench=_milliseconds)
@triton.jit(do_not_specialize=[*NOT_SPECIALIZED, "all_bins"])
def value_gradient_kernel(
    of_value, gradient, places, weights, points, starts, levels, size, heads, queries, tokens, all_bins,
    image_stride, head_stride, token_stride,
    UNIT: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr,
    PARTS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums the gradient of a block of cells of one image and head over the points that read them.

    `points` holds the points' numbers, sorted by bin, `starts` where each bin starts among them. A cell is read by the
    points of four bins. The two of the row above follow each other among the sorted points, and so do the other two.
    """
    BLOCK: tl.constexpr = max(1, TILE // (PADDED * PARTS))
    n = tl.program_id(1).to(tl.int64)
    # Coarse levels come last and have the most points per cell. Started first, they don't finish after all others.
    token = tokens - 1 - (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    there = token >= 0
    channel = tl.arange(0, PADDED)
    places += n * queries * (2 * LEVELS * POINTS)
    weights += n * queries * (LEVELS * POINTS)
    gradient += n * queries * CHANNELS
    of_value += (n // heads * image_stride + n % heads * head_stride) * UNIT
    starts += n * all_bins

    level_of = tl.full((BLOCK,), 0, tl.int32)
    row, column, width_of, bin_of = level_of, level_of, level_of, level_of
    first, first_bin = 0, 0
    for level in tl.static_range(LEVELS):
        height, width = _sides(levels[level])
        within = token >= first
        cell = token - first
        across = tl.maximum(width, 1)
        row = tl.where(within, cell // across, row)
        column = tl.where(within, cell % across, column)
        width_of = tl.where(within, width, width_of)
        bin_of = tl.where(within, first_bin + row * (width + 1) + column, bin_of)
        first += height * width
        first_bin += (height + 1) * (width + 1)
    upper = tl.load(starts + bin_of, mask=there, other=0)
    count_above = tl.load(starts + bin_of + 2, mask=there, other=0) - upper
    lower = tl.load(starts + bin_of + width_of + 1, mask=there, other=0)
    count = count_above + tl.load(starts + bin_of + width_of + 3, mask=there, other=0) - lower

    sums_SPC = tl.full((BLOCK, PARTS, PADDED), 0.0, tl.float32)
    for begin in tl.range(0, tl.max(count, 0), PARTS, num_stages=STAGES):
        i_SP = begin + tl.arange(0, PARTS)[None, :] + tl.full((BLOCK, 1), 0, tl.int32)
        reads_SP = i_SP < count[:, None]
        at_SP = i_SP + tl.where(i_SP < count_above[:, None], upper[:, None], (lower - count_above)[:, None])
        point_SP = tl.load(points + at_SP, mask=reads_SP, other=0)
        point_SP = tl.where(reads_SP, point_SP - n * queries * (LEVELS * POINTS), 0).to(tl.int32)
        query_SP = point_SP // (LEVELS * POINTS)
        at_place_SP = point_SP + query_SP * (LEVELS * POINTS)
        weight_SP = tl.load(weights + point_SP, mask=reads_SP, other=0.0)
        x_SP = tl.load(places + at_place_SP, mask=reads_SP, other=0.0)
        y_SP = tl.load(places + at_place_SP + LEVELS * POINTS, mask=reads_SP, other=0.0)
        gradient_SPC = tl.load(
            gradient + (query_SP * CHANNELS)[:, :, None] + channel[None, None, :],
            mask=reads_SP[:, :, None] & (channel < CHANNELS)[None, None, :],
            other=0.0,
        )
        number_SP = (x_SP == x_SP) & (y_SP == y_SP)
        left_SP, top_SP = tl.floor(x_SP), tl.floor(y_SP)
        lower_SP = weight_SP * (y_SP - top_SP)
        is_upper_SP = tl.where(number_SP, top_SP, 0.0).to(tl.int32) == row[:, None]
        side_SP = tl.where(is_upper_SP, weight_SP - lower_SP, lower_SP)
        right_SP = side_SP * (x_SP - left_SP)
        is_left_SP = tl.where(number_SP, left_SP, 0.0).to(tl.int32) == column[:, None]
        share_SP = tl.where(is_left_SP, side_SP - right_SP, right_SP)
        sums_SPC = tl.where(reads_SP[:, :, None], tl.fma(share_SP[:, :, None], gradient_SPC, sums_SPC), sums_SPC)

    sum_SC = _pairs(_pairs(_pairs(tl.permute(sums_SPC, (0, 2, 1)), PARTS), PARTS // 2), PARTS // 4)
    sum_SC = tl.reshape(sum_SC, (BLOCK, PADDED))
    at = of_value + (token * token_stride * UNIT)[:, None] + channel[None, :]
    tl.store(at, sum_SC.to(of_value.dtype.element_ty), mask=there[:, None] & (channel < CHANNELS)[None, :])


@triton.jit
def _pairs(sums_SCP, PARTS: tl.constexpr):
    """Adds neighbours along the last axis. `tl.sum` would add in an order that depends on the configuration."""
    S: tl.constexpr = sums_SCP.shape[0]
    C: tl.constexpr = sums_SCP.shape[1]
    first, second = tl.split(tl.reshape(sums_SCP, (S, C, PARTS // 2, 2)))
    return first + second


# Tuning runs the kernel several times, which would add up in `sums`.
@triton.autotune(PER_QUERY, key=KEY, do_bench=_milliseconds, reset_to_zero=["sums"])
@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def add_value_gradient_kernel(
    sums, gradient, places, weights, levels, size, heads, queries, image_stride, head_stride, token_stride,
    UNIT: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Adds the gradient of the cells that a block of queries reads to zeros, atomically and in any order."""
    n = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * (TILE // PADDED) + tl.arange(0, TILE // PADDED)
    channel = tl.arange(0, PADDED)
    there = query < queries
    mask = there[:, None] & (channel < CHANNELS)[None, :]
    sums += (n // heads * image_stride + n % heads * head_stride) * UNIT
    places += n * queries * (2 * LEVELS * POINTS)
    weights += n * queries * (LEVELS * POINTS)
    gradient += n * queries * CHANNELS
    gradient_QC = tl.load(gradient + (query * CHANNELS)[:, None] + channel[None, :], mask=mask, other=0.0)
    first = 0
    for level in tl.static_range(LEVELS):
        height, width = _sides(levels[level])
        for point in tl.range(POINTS):
            at = query * (LEVELS * POINTS) + level * POINTS + point
            weight = tl.load(weights + at, mask=there, other=0.0)
            at += query * (LEVELS * POINTS)
            column, row, x, y = _around(places, at, LEVELS * POINTS, height, width, there)
            lower = weight * y
            upper = weight - lower
            for corner in tl.range(4):  # unrolled, it would need more registers than there are
                side = tl.where(corner < 2, upper, lower)
                right = side * x
                share = tl.where(corner % 2 == 1, right, side - right)
                at_cell, inside = _at_cell(
                    first, row + corner // 2, column + corner % 2, height, width, token_stride, UNIT
                )
                into = sums + at_cell[:, None] + channel[None, :]
                tl.atomic_add(into, share[:, None] * gradient_QC, mask=inside[:, None] & mask, sem="relaxed")
        first += height * width
