"""Vectors of numbers in functions that Numba compiles: all of a vector's numbers are computed together, in registers.

Numba's own loops over few numbers are not vectorised where arrays might overlap. Nothing here is rearranged by the
compiler, so that results are the same bits on every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, register_model

INDEX = ir.IntType(32)
intrinsic: Any = extending.intrinsic
"""Numba's types describe what compiled code sees, not what is called here."""
Generate = Callable[[Any, ir.IRBuilder, Any, Sequence[Any]], Any]
Typed = tuple[Any, Generate]


class Lanes(types.Type):
    """The type of so many numbers of a dtype."""

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
    """Returns a pointer to the given array's number at the given index."""
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
