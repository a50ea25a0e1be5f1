"""The sampling step of deformable attention: each query's weighted sum of bilinear samples from maps of several levels.

Shapes: B images, M heads, N = B·M, Q queries, S tokens of all levels, C channels per head, LK levels times points,
F cells of all levels with their frames.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.deformable_read_triton import read_by_kernel, unfit

Shapes = tuple[tuple[int, int], ...]
FRAME = 2
"""Width, in cells, of the frame of zeros around a map, so that a place clamped to the frame reads four zeros."""
SHARED = 2**23
"""Number of products from which on threads share the work; starting threads costs as much as a part of that size."""


def read(value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Shapes) -> Tensor:
    """Returns N×Q×C. Places are (x, y) in cells of their level, 0 at the centre of the first; outside, values are zero.

    Places and weights share one dtype, in which values are read. A GPU reads with Triton kernels where it can, and
    otherwise logs once why it can't.
    """
    if value_BMSC.is_cpu:
        images_and_heads = value_BMSC.shape[:2]
        places, weights = (x.unflatten(0, images_and_heads).transpose(1, 2) for x in (places_NQ2LK, weights_NQLK))
        read_BQMC = read_on_cpu(value_BMSC.transpose(1, 2), places, weights, shapes)
        return read_BQMC.transpose(1, 2).flatten(0, 1)
    if value_BMSC.is_cuda and unfit(value_BMSC, places_NQ2LK, weights_NQLK, shapes) is None:
        return read_by_kernel(value_BMSC, places_NQ2LK, weights_NQLK, shapes)
    # The backward pass recomputes the samples: keeping them would take most of the memory.
    value_NSC = value_BMSC.flatten(0, 1).to(places_NQ2LK.dtype)
    sampled: Tensor = checkpoint(read_plainly, value_NSC, places_NQ2LK, weights_NQLK, shapes, use_reentrant=False)
    return sampled


def read_on_cpu(value_BSMC: Tensor, places_BQM2LK: Tensor, weights_BQMLK: Tensor, shapes: Shapes) -> Tensor:
    """Same as `read`, returning B×Q×M×C: in the order in which linear layers leave and take them."""
    if torch.compiler.is_exporting():  # to a runtime that has no operators of ours
        value, places, weights = (x.transpose(1, 2).flatten(0, 1) for x in (value_BSMC, places_BQM2LK, weights_BQMLK))
        return read_plainly(value, places, weights, shapes).unflatten(0, (-1, value_BSMC.shape[2])).transpose(1, 2)
    sides = [side for shape in shapes for side in shape]
    read_BQMC: Tensor = _read_on_cpu(value_BSMC, places_BQM2LK, weights_BQMLK, sides)[0]
    return read_BQMC


def read_plainly(value_NSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Shapes) -> Tensor:
    """Same as `read`, level by level with grid_sample."""
    levels = len(shapes)
    maps = value_NSC.transpose(1, 2).split([height * width for height, width in shapes], dim=2)
    parts = zip(shapes, maps, places_NQ2LK.chunk(levels, dim=3), weights_NQLK.chunk(levels, dim=2), strict=True)
    sums_NCQ = []
    for (height, width), level_NCS, places_NQ2K, weights_NQK in parts:
        x_NQK, y_NQK = places_NQ2K.unbind(2)
        grid_NQK2 = torch.stack(((x_NQK * 2 + 1) / width - 1, (y_NQK * 2 + 1) / height - 1), dim=-1)
        samples_NCQK = F.grid_sample(level_NCS.unflatten(2, (height, width)), grid_NQK2, align_corners=False)
        sums_NCQ.append((samples_NCQK * weights_NQK[:, None]).sum(3))
    return sum(sums_NCQ[1:], sums_NCQ[0]).transpose(1, 2)


# A custom operator, which torch.compile does not try to trace.
@torch.library.custom_op("rlip::read_on_cpu", mutates_args=(), device_types="cpu")
def _read_on_cpu(
    value_BSMC: Tensor, places_BQM2LK: Tensor, weights_BQMLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Returns B×Q×M×C, and for the backward pass the framed maps, N×F×C."""
    framed_NFC = _Maps(sides).framed(value_BSMC, weights_BQMLK.dtype)
    read_BQMC = weights_BQMLK.new_empty((*weights_BQMLK.shape[:3], value_BSMC.shape[3]))
    _run("read", [], framed_NFC, places_BQM2LK, weights_BQMLK, sides, [read_BQMC])
    return read_BQMC, framed_NFC


@_read_on_cpu.register_fake
def _(value_BSMC: Tensor, places_BQM2LK: Tensor, weights_BQMLK: Tensor, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    images, _, heads, channels = value_BSMC.shape
    read_BQMC = weights_BQMLK.new_empty((*weights_BQMLK.shape[:3], channels))
    return read_BQMC, weights_BQMLK.new_empty((images * heads, sum(_Maps(sides).sizes), channels))


@torch.library.custom_op("rlip::read_on_cpu_backward", mutates_args=(), device_types="cpu")
def _gradients_on_cpu(
    gradient_BQMC: Tensor, framed_NFC: Tensor, places_BQM2LK: Tensor, weights_BQMLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of the values (B×S×M×C), places and weights."""
    of_framed_NFC = torch.zeros_like(framed_NFC)
    of_places, of_weights = (x.new_empty(x.shape) for x in (places_BQM2LK, weights_BQMLK))
    outputs = [of_framed_NFC, of_places, of_weights]
    _run("gradients", [gradient_BQMC], framed_NFC, places_BQM2LK, weights_BQMLK, sides, outputs)
    images, _, heads, _ = gradient_BQMC.shape
    return _Maps(sides).unframed(of_framed_NFC, images, heads), of_places, of_weights


@_gradients_on_cpu.register_fake
def _(
    gradient_BQMC: Tensor, framed_NFC: Tensor, places_BQM2LK: Tensor, weights_BQMLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    images, _, heads, channels = gradient_BQMC.shape
    tokens = sum(height * width for height, width in _Maps(sides).shapes)
    of_places, of_weights = (x.new_empty(x.shape) for x in (places_BQM2LK, weights_BQMLK))
    return framed_NFC.new_empty((images, tokens, heads, channels)), of_places, of_weights


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    value_BSMC, places_BQM2LK, weights_BQMLK, ctx.sides = inputs
    ctx.dtype = value_BSMC.dtype
    ctx.save_for_backward(output[1], places_BQM2LK, weights_BQMLK)
    # Nothing else uses the framed maps, so their gradient is None instead of zeros as large as the maps.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient_BQMC: Tensor | None, of_framed: None) -> tuple[Tensor | None, ...]:
    if gradient_BQMC is None:
        return None, None, None, None
    of_value_BSMC, of_places, of_weights = _gradients_on_cpu(gradient_BQMC, *ctx.saved_tensors, ctx.sides)
    return of_value_BSMC.to(ctx.dtype), of_places, of_weights, None


_read_on_cpu.register_autograd(_backward, setup_context=_keep)


def _run(
    name: str,
    inputs: Sequence[Tensor],
    framed_NFC: Tensor,
    places_BQM2LK: Tensor,
    weights_BQMLK: Tensor,
    sides: Sequence[int],
    outputs: Sequence[Tensor],
) -> None:
    """Runs a compiled loop over the images' heads, in as many threads as PyTorch has, if there is enough to do.

    A head is the work of one thread, so no bit depends on their number.
    """
    # Importing Numba takes seconds, so it waits for the first reading on a CPU.
    loops: Any = importlib.import_module("models.deformable_read_loops")
    _, queries, heads, points = weights_BQMLK.shape
    count, cells, channels = framed_NFC.shape
    loop = getattr(loops.loops(channels, points), name)
    read = [_flat(x) for x in (*inputs, framed_NFC, places_BQM2LK, weights_BQMLK)]
    levels = loops.Levels(*_Maps(sides).of_points(points, read[-1].dtype))
    into = [_flat(x) for x in outputs]

    def run(first: int, last: int) -> None:
        loop(*read, levels, (cells, queries, heads), first, last, *into)

    threads = min(count, torch.get_num_threads()) if weights_BQMLK.numel() * 4 * channels >= SHARED else 1
    bounds = [count * thread // threads for thread in range(threads + 1)]
    if threads == 1:
        return run(0, count)
    with ThreadPoolExecutor(threads) as pool:
        # All parts are submitted before the first result, which also raises what its thread raised.
        for done in [pool.submit(run, *part) for part in pairwise(bounds)]:
            done.result()


def _flat(x: Tensor) -> np.ndarray[Any, Any]:
    return x.contiguous().flatten().numpy()


class _Maps:
    """Adds a frame of zeros to maps, wide enough for the cells beside a place: places outside need no special case."""

    def __init__(self, sides: Sequence[int]) -> None:
        self.shapes = tuple(zip(sides[::2], sides[1::2], strict=True))
        self.framed_shapes = [(height + 2 * FRAME, width + 2 * FRAME) for height, width in self.shapes]
        self.sizes = [height * width for height, width in self.framed_shapes]

    def framed(self, value_BSMC: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the framed maps, N×F×C."""
        images, _, heads, channels = value_BSMC.shape
        framed_NFC = value_BSMC.new_empty((images * heads, sum(self.sizes), channels), dtype=dtype)
        for map_NHWC in self._maps(framed_NFC):
            for edge in (slice(None, FRAME), slice(-FRAME, None)):
                map_NHWC[:, edge].zero_()
                map_NHWC[:, FRAME:-FRAME, edge].zero_()
        inner = self._inner(framed_NFC, images, heads)
        for inner_BMHWC, level_BSMC in zip(inner, self._levels(value_BSMC), strict=True):
            inner_BMHWC.copy_(level_BSMC.transpose(1, 2).unflatten(2, inner_BMHWC.shape[2:4]))
        return framed_NFC

    def unframed(self, framed_NFC: Tensor, images: int, heads: int) -> Tensor:
        """Returns the maps without their frames, B×S×M×C."""
        tokens = sum(height * width for height, width in self.shapes)
        value_BSMC = framed_NFC.new_empty((images, tokens, heads, framed_NFC.shape[2]))
        inner = self._inner(framed_NFC, images, heads)
        for inner_BMHWC, level_BSMC in zip(inner, self._levels(value_BSMC), strict=True):
            level_BSMC.transpose(1, 2).unflatten(2, inner_BMHWC.shape[2:4]).copy_(inner_BMHWC)
        return value_BSMC

    def of_points(self, points: int, dtype: np.dtype[Any]) -> tuple[np.ndarray[Any, Any], ...]:
        """Returns the fields of `deformable_read_loops.Levels` for this many points."""
        level_P = np.arange(len(self.shapes)).repeat(points // len(self.shapes))
        sizes_P2, framed_P2 = np.array(self.shapes)[level_P], np.array(self.framed_shapes)[level_P]
        starts_P = np.cumsum([0, *self.sizes])[level_P] + FRAME * (framed_P2[:, 1] + 1)
        limits_4P = np.stack((np.full(points, -FRAME), sizes_P2[:, 1], sizes_P2[:, 0], framed_P2[:, 1]))
        return limits_4P.astype(dtype).ravel(), starts_P.astype(np.int32)

    def _levels(self, value_BSMC: Tensor) -> Sequence[Tensor]:
        return value_BSMC.split([height * width for height, width in self.shapes], dim=1)

    def _inner(self, framed_NFC: Tensor, images: int, heads: int) -> Iterator[Tensor]:
        for map_NHWC in self._maps(framed_NFC):
            yield map_NHWC[:, FRAME:-FRAME, FRAME:-FRAME].unflatten(0, (images, heads))

    def _maps(self, framed_NFC: Tensor) -> Iterator[Tensor]:
        for level, shape in zip(framed_NFC.split(self.sizes, dim=1), self.framed_shapes, strict=True):
            yield level.unflatten(1, shape)
