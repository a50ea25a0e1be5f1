"""The loops of deformable attention's reading on a CPU, which Numba compiles at the first call, in half a second each.

Their vectors have all numbers computed together, in registers: Numba's own loops over few numbers are not vectorised
where arrays might overlap. Nothing is rearranged by the compiler, so that results are the same bits on every processor.

Shapes: N images times heads, F cells of all levels with their frames, C channels per head, B images, Q queries, M
heads, P = LK levels times points. Arrays are flat, in the order of the letters in their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, register_model
from numpy.typing import NDArray

PREFETCH = 4
"""Prefetch distance, in queries: how far ahead of the current query numbers are fetched from memory."""
Array = NDArray[Any]
# Without the GIL, so that threads share a call; NumPy's error model needs no check before a division.
_compiled: Any = numba.njit(nogil=True, error_model="numpy")


class Levels(NamedTuple):
    """The layout of the maps, for each point."""

    limits: Array
    """4×P: the least place, the width and the height of the point's level, and the width of its framed map"""
    starts: Array
    """P: the first cell inside the frame"""


class Loops(NamedTuple):
    """The compiled functions. A call processes the images' heads from `first` up to `last`; `sizes` is (F, Q, M)."""

    read: Callable[[Array, Array, Array, Levels, tuple[int, int, int], int, int, Array], None]
    """framed_NFC, places_BQM2P, weights_BQMP, levels, sizes, first, last, read_BQMC (written)"""
    gradients: Callable[[Array, Array, Array, Array, Levels, tuple[int, int, int], int, int, Array, Array, Array], None]
    """of_read_BQMC, framed_NFC, places_BQM2P, weights_BQMP, levels, sizes, first, last; then the gradients to write:
    of_framed_NFC (zeros at first), of_places_BQM2P, of_weights_BQMP"""


@lru_cache
def loops(C: int, P: int) -> Loops:
    """Makes the functions for C channels and P points, which are constants in them, so that each row is a vector."""

    @_compiled
    def located(places: Any, weights: Any, levels: Any, query: int, cells_P: Any, shares_4P: Any) -> Any:
        """Writes each point's upper left cell and its four cells' shares. Returns where in the cell it lies: x, y."""
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
                ahead = query + PREFETCH * heads
                # With the default sizes, a row of 32 numbers fills two lines of the cache.
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
                ahead = query + PREFETCH * heads
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


INDEX = ir.IntType(32)
intrinsic: Any = extending.intrinsic
"""Numba's types describe what compiled code sees, not what is called here."""
Generate = Callable[[Any, ir.IRBuilder, Any, Sequence[Any]], Any]
Typed = tuple[Any, Generate]


class Lanes(types.Type):
    """The type of a vector of `count` numbers of one dtype."""

    def __init__(self, dtype: types.Type, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        number = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(number, lanes.count))


@intrinsic(prefer_literal=True)
def load(_typing: Any, array: Any, index: types.Type, count: types.Type) -> Typed | None:
    """`load(array, index, count)` reads `count` numbers, a constant, of a flat array."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    lanes = Lanes(array.dtype, count.literal_value)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        vector = context.get_value_type(lanes)
        loaded = builder.load(_place(context, builder, array, given, vector))
        # Rows start at any number, whereas LLVM assumes the alignment of a whole vector.
        loaded.align = array.dtype.bitwidth // 8
        return loaded

    return lanes(array, types.intp, count), generate


@intrinsic(prefer_literal=True)
def zeros(_typing: Any, like: types.Array, count: types.Type) -> Typed | None:
    """`zeros(like, count)` has `count` zeros, a constant, of the array's dtype."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    lanes = Lanes(like.dtype, count.literal_value)

    def generate(context: Any, _builder: ir.IRBuilder, _signature: Any, _given: Sequence[Any]) -> Any:
        return ir.Constant(context.get_value_type(lanes), [0.0] * lanes.count)

    return lanes(like, count), generate


@intrinsic
def store(_typing: Any, array: Any, index: types.Type, lanes: Lanes) -> Typed:
    """`store(array, index, lanes)` writes the numbers to a flat array."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        stored = builder.store(given[2], _place(context, builder, array, given, given[2].type))
        stored.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic(prefer_literal=True)
def prefetch(_typing: Any, array: Any, index: types.Type, writes: types.Type) -> Typed | None:
    """`prefetch(array, index, writes)` asks for a line of the cache; `writes`, a constant, is 1 if it will be written.

    The index may lie outside the array.
    """
    if not isinstance(writes, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        line = ir.IntType(8)
        kind = ir.FunctionType(ir.VoidType(), [line.as_pointer(), INDEX, INDEX, INDEX])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        soonest, data = INDEX(3), INDEX(1)
        builder.call(
            function, [_place(context, builder, array, given, line), INDEX(writes.literal_value), soonest, data]
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, writes), generate


@intrinsic
def add_product(_typing: Any, total: Lanes, factor: types.Type, lanes: Lanes) -> Typed:
    """`add_product(total, factor, lanes)` is total + factor · lanes, rounded once; the factor is a number or lanes."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        added, scale, scaled = given
        if not isinstance(factor, Lanes):
            first = builder.insert_element(ir.Constant(added.type, ir.Undefined), scale, INDEX(0))
            scale = _picked(builder, first, [0] * total.count)
        return _call(builder, "fma", scale, scaled, added)

    return total(total, factor, lanes), generate


@intrinsic
def dot(_typing: Any, first: Lanes, second: Lanes) -> Typed:
    """`dot(first, second)` sums the products: the two halves number by number, their two halves, and so on."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        rest, count = builder.fmul(*given), first.count
        while count % 2 == 0:
            count //= 2
            halves = (_picked(builder, rest, range(begin, begin + count)) for begin in (0, count))
            rest = builder.fadd(*halves)
        total = builder.extract_element(rest, INDEX(0))
        for lane in range(1, count):
            total = builder.fadd(total, builder.extract_element(rest, INDEX(lane)))
        return total

    return first.dtype(first, second), generate


@intrinsic
def floor(_typing: Any, lanes: Lanes) -> Typed:
    """`floor(lanes)` rounds down."""
    return lanes(lanes), lambda _context, builder, _signature, given: _call(builder, "floor", given[0])


@intrinsic
def within(_typing: Any, lanes: Lanes, low: Lanes, high: Lanes) -> Typed:
    """`within(lanes, low, high)` clamps the numbers; NaN stays NaN."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        x, lowest, highest = given
        x = builder.select(builder.fcmp_ordered("<", x, lowest), lowest, x)
        return builder.select(builder.fcmp_ordered(">", x, highest), highest, x)

    return lanes(lanes, low, high), generate


@intrinsic
def whole(_typing: Any, lanes: Lanes) -> Typed:
    """`whole(lanes)` converts to integers of 32 bits; NaN becomes 0."""
    integers = Lanes(types.int32, lanes.count)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        (x,) = given
        known = builder.select(builder.fcmp_ordered("ord", x, x), x, ir.Constant(x.type, [0.0] * lanes.count))
        return builder.fptosi(known, context.get_value_type(integers))

    return integers(lanes), generate


def _of_two(operation: str) -> Any:
    def of_two(_typing: Any, first: Lanes, second: Lanes) -> Typed:
        kind = operation if isinstance(first.dtype, types.Integer) else f"f{operation}"
        return first(first, second), lambda _context, builder, _signature, given: getattr(builder, kind)(*given)

    return intrinsic(of_two)


plus, minus, times = (_of_two(operation) for operation in ("add", "sub", "mul"))


def _place(context: Any, builder: ir.IRBuilder, array: Any, given: Sequence[Any], target: ir.Type) -> Any:
    """Returns a pointer to an element of an array; `given` holds array and index."""
    data = context.make_array(array)(context, builder, given[0]).data
    return builder.bitcast(builder.gep(data, [given[1]]), target.as_pointer())


def _picked(builder: ir.IRBuilder, vector: Any, lanes: Sequence[int]) -> Any:
    kind = ir.VectorType(INDEX, len(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), ir.Constant(kind, list(lanes)))


def _call(builder: ir.IRBuilder, name: str, *given: Any) -> Any:
    """Calls a function of LLVM that takes and returns vectors of one type."""
    vector = given[0].type
    kind = ir.FunctionType(vector, [vector] * len(given))
    name = f"llvm.{name}.v{vector.count}{vector.element.intrinsic_name}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), given)
