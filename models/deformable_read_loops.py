"""The loops of deformable attention's reading on a CPU, which Numba compiles at the first call, in half a second each.

Shapes: N images times heads, F cells of all levels with their frames, C channels per head, B images, Q queries, M heads,
P = LK levels times points. Arrays are flat, in the order of the letters in their names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.lanes import add_product, dot, floor, load, minus, plus, prefetch, store, times, whole, within, zeros

AHEAD = 4
"""Number of queries between the one that is read and the one whose numbers are fetched from memory."""
Array = NDArray[Any]
_compiled: Any = numba.njit(nogil=True, error_model="numpy")


class Levels(NamedTuple):
    """What the loops know of the maps, for each point."""

    limits: Array
    """4×P: the least place, the width and the height of the point's level, and the width of its framed map"""
    starts: Array
    """P: the first cell inside the frame"""


class Loops(NamedTuple):
    """The compiled functions. `last` is the end of the images' heads that a call has; `sizes` is (F, Q, M)."""

    read: Callable[[Array, Array, Array, Levels, tuple[int, int, int], int, int, Array], None]
    """framed_NFC, places_BQM2P, weights_BQMP, levels, sizes, first, last, read_BQMC (written)"""
    gradients: Callable[[Array, Array, Array, Array, Levels, tuple[int, int, int], int, int, Array, Array, Array], None]
    """of_read_BQMC, framed_NFC, places_BQM2P, weights_BQMP, levels, sizes, first, last; then the gradients to write:
    of_framed_NFC (zeros at first), of_places_BQM2P, of_weights_BQMP"""


@lru_cache
def loops(C: int, P: int) -> Loops:
    """Makes the functions for so many channels and points, which are constants in them: a row of each is a vector."""

    @_compiled
    def located(places: Any, weights: Any, levels: Any, query: int, cells_P: Any, shares_4P: Any) -> Any:
        """Writes each point's upper left cell and the shares of its four cells. Returns where in the cell it lies: x, y."""
        lowest = load(levels.limits, 0, P)
        x = within(load(places, query * 2 * P, P), lowest, load(levels.limits, P, P))
        y = within(load(places, query * 2 * P + P, P), lowest, load(levels.limits, 2 * P, P))
        left, top = floor(x), floor(y)
        # A place that is NaN gets the first cell, and shares that are NaN.
        cell = whole(add_product(left, top, load(levels.limits, 3 * P, P)))
        store(cells_P, 0, plus(cell, load(levels.starts, 0, P)))
        x, y = minus(x, left), minus(y, top)
        weight = load(weights, query * P, P)
        lower = times(weight, y)
        upper = minus(weight, lower)
        upper_right, lower_right = times(upper, x), times(lower, x)
        store(shares_4P, 0, minus(upper, upper_right))
        store(shares_4P, P, upper_right)
        store(shares_4P, 2 * P, minus(lower, lower_right))
        store(shares_4P, 3 * P, lower_right)
        return x, y

    @_compiled
    def read(framed: Any, places: Any, weights: Any, levels: Any, sizes: Any, first: int, last: int, out: Any) -> None:
        cells, queries, heads = sizes
        cells_P, shares_4P = np.empty(P, np.int32), np.empty(4 * P, weights.dtype)
        for n in range(first, last):
            for q in range(queries):
                query = (n // heads * queries + q) * heads + n % heads
                ahead = query + AHEAD * heads
                prefetch(places, ahead * 2 * P, 0)
                prefetch(places, ahead * 2 * P + P, 0)
                prefetch(weights, ahead * P, 0)
                prefetch(out, ahead * C, 1)
                prefetch(out, ahead * C + C // 2, 1)
                located(places, weights, levels, query, cells_P, shares_4P)
                # The four cells are summed separately: shorter sums round less, and none waits for another.
                one = two = three = four = zeros(framed, C)
                for p in range(P):
                    above = (n * cells + cells_P[p]) * C
                    below = above + np.int64(levels.limits[3 * P + p]) * C
                    one = add_product(one, shares_4P[p], load(framed, above, C))
                    two = add_product(two, shares_4P[P + p], load(framed, above + C, C))
                    three = add_product(three, shares_4P[2 * P + p], load(framed, below, C))
                    four = add_product(four, shares_4P[3 * P + p], load(framed, below + C, C))
                store(out, query * C, plus(plus(one, two), plus(three, four)))

    @_compiled
    def gradients(
        of_read: Any, framed: Any, places: Any, weights: Any, levels: Any, sizes: Any, first: int, last: int,
        of_framed: Any, of_places: Any, of_weights: Any,
    ) -> None:  # fmt: skip
        cells, queries, heads = sizes
        cells_P, shares_4P = np.empty(P, np.int32), np.empty(4 * P, weights.dtype)
        of_cells_4P = np.empty_like(shares_4P)
        for n in range(first, last):
            for q in range(queries):
                query = (n // heads * queries + q) * heads + n % heads
                ahead = query + AHEAD * heads
                prefetch(of_read, ahead * C, 0)
                prefetch(of_read, ahead * C + C // 2, 0)
                prefetch(places, ahead * 2 * P, 0)
                prefetch(places, ahead * 2 * P + P, 0)
                prefetch(weights, ahead * P, 0)
                prefetch(of_places, ahead * 2 * P, 1)
                prefetch(of_places, ahead * 2 * P + P, 1)
                prefetch(of_weights, ahead * P, 1)
                x, y = located(places, weights, levels, query, cells_P, shares_4P)
                gradient = load(of_read, query * C, C)
                for p in range(P):
                    above = (n * cells + cells_P[p]) * C
                    below = above + np.int64(levels.limits[3 * P + p]) * C
                    of_cells_4P[p] = dot(gradient, load(framed, above, C))
                    of_cells_4P[P + p] = dot(gradient, load(framed, above + C, C))
                    of_cells_4P[2 * P + p] = dot(gradient, load(framed, below, C))
                    of_cells_4P[3 * P + p] = dot(gradient, load(framed, below + C, C))
                    store(of_framed, above, add_product(load(of_framed, above, C), shares_4P[p], gradient))
                    above += C
                    store(of_framed, above, add_product(load(of_framed, above, C), shares_4P[P + p], gradient))
                    store(of_framed, below, add_product(load(of_framed, below, C), shares_4P[2 * P + p], gradient))
                    below += C
                    store(of_framed, below, add_product(load(of_framed, below, C), shares_4P[3 * P + p], gradient))
                upper_left, lower_left = load(of_cells_4P, 0, P), load(of_cells_4P, 2 * P, P)
                upper_slope = minus(load(of_cells_4P, P, P), upper_left)
                lower_slope = minus(load(of_cells_4P, 3 * P, P), lower_left)
                upper = add_product(upper_left, x, upper_slope)
                rise = minus(add_product(lower_left, x, lower_slope), upper)
                slope = add_product(upper_slope, y, minus(lower_slope, upper_slope))
                weight = load(weights, query * P, P)
                store(of_weights, query * P, add_product(upper, y, rise))
                store(of_places, query * 2 * P, times(weight, slope))
                store(of_places, query * 2 * P + P, times(weight, rise))

    return Loops(read, gradients)
