"""The Triton kernels on Triton's interpreter, against the reading on a CPU and the plain one by PyTorch.

`test_deformable_read_triton.py` runs these tests in a process of their own: the interpreter has to be chosen before
anything imports Triton. What they take is the interpreter's time for each program, and Numba's for each number of
channels and points that is read on a CPU. So maps are small, and most that is read there has one such number of each.
"""

import math
from collections import defaultdict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models import deformable_read, deformable_read_kernels, deformable_read_triton
from models.deformable_read_triton import read_by_kernel

TWO = ((4, 5), (2, 3))
FOUR = ((3, 4), (2, 3), (2, 2), (1, 1))
WITH_EMPTY = ((4, 5), (0, 3), (2, 0), (1, 1))
NAMES = ("what was read", "gradient of values", "gradient of places", "gradient of weights")
KERNELS = ("read_kernel", "query_gradients_kernel", "value_gradient_kernel", "add_value_gradient_kernel")


@pytest.fixture(autouse=True)
def fixed_seed():
    """These tests run without the other ones' fixtures, whose imports take seconds."""
    torch.manual_seed(0)
    in_fixed_order(True)


def in_fixed_order(is_fixed: bool) -> None:
    torch.use_deterministic_algorithms(is_fixed)
    torch.utils.deterministic.fill_uninitialized_memory = False


def _inputs(images, heads, channels, points, queries, shapes, dtype=torch.float32):
    """Returns values, places (a third outside the maps, some on cells' centres or edges) and weights."""
    tokens, columns = sum(height * width for height, width in shapes), len(shapes) * points
    value = torch.randn(images, tokens, heads, channels).transpose(1, 2).to(dtype)
    places = torch.rand(images * heads, queries, 2, columns) * 12 - 4
    places[:, ::2] = (places[:, ::2] * 2).round() / 2
    return value, places, torch.rand(images * heads, queries, columns)


def _results(read, inputs, shapes, pushed):
    leaves = [x.detach().requires_grad_() for x in inputs]
    found = read(*leaves, shapes)
    return [found.detach(), *torch.autograd.grad(found, leaves, pushed)]


def _plainly(value, places, weights, shapes):
    return deformable_read.read_plainly(value.flatten(0, 1), places, weights, shapes)


def _assert_same(inputs, shapes, reference=deformable_read.read, rounding=1e-5):
    """Compares results with those of a reference, by default on a CPU, and returns them."""
    pushed = torch.randn(*inputs[2].shape[:2], inputs[0].shape[3])
    ours, theirs = (_results(read, inputs, shapes, pushed) for read in (read_by_kernel, reference))
    for one, other, name in zip(ours, theirs, NAMES, strict=True):
        assert one.dtype == other.dtype
        near = rounding if name == "gradient of values" else 1e-5
        torch.testing.assert_close(
            one, other, atol=near, rtol=near, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )
    return ours


@pytest.mark.parametrize(
    ("images", "heads", "points", "queries", "shapes"),
    [(2, 2, 2, 5, TWO), (1, 1, 1, 65, FOUR), (1, 2, 1, 4, WITH_EMPTY)],
)
def test_values_and_gradients_are_those_of_a_cpu(images, heads, points, queries, shapes):
    _assert_same(_inputs(images, heads, 8, points, queries, shapes), shapes)


@pytest.mark.parametrize("heads, channels, points, queries, shapes", [
    (1, 1, 1, 1, ((3, 4),)), (2, 5, 1, 3, TWO), (1, 32, 4, 3, FOUR), (3, 100, 1, 1, ((1, 2),)),
    (1, 128, 1, 3, ((2, 3),)),
])  # fmt: skip
def test_heads_of_any_width(heads, channels, points, queries, shapes):
    value, places, weights = _inputs(1, heads, channels, points, queries, shapes)
    # At a cell's centre, where the slopes to either side are both correct, the plain reading takes another one.
    _assert_same((value, places + 0.25, weights), shapes, _plainly)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_values_of_16_bits_are_summed_in_32(dtype, rounding):
    _assert_same(_inputs(1, 2, 8, 2, 33, TWO, dtype), TWO, rounding=rounding)


def test_places_at_edges_and_far_outside():
    places = [-1e30, -math.inf, math.inf, 1e30, -2.0, -1.5, -1.0, -0.5, 0.0, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5]
    axis, inside = torch.tensor(places), torch.ones(len(places))
    grid = torch.cat([torch.stack(pair, 1) for pair in ((axis, inside), (inside, axis), (axis, axis.roll(4)))])
    value, _, weights = _inputs(1, 1, 8, 2, len(grid), TWO)
    _assert_same((value, grid[None, :, :, None].expand(-1, -1, -1, 4), weights), TWO)


def test_what_is_no_number_spreads_as_on_a_cpu():
    value, places, weights = _inputs(1, 2, 8, 2, 6, TWO)
    places[0, 0, 0, 0] = places[0, 1, 1, 2] = places[1, 2, :, 1] = math.nan
    weights[0, 3, 0], weights[1, 4, 3] = math.nan, math.inf
    value[0, 0, 7, 2], value[0, 1, 21, 3] = math.nan, math.inf
    read, *gradients = _assert_same((value, places, weights), TWO)
    assert read[0, 0].isnan().all()
    assert read[1, 2].isnan().all()
    assert all(gradient.isnan().any() for gradient in gradients)


def test_sums_in_any_order_differ_by_rounding():
    value, places, weights = _inputs(1, 2, 5, 1, 9, TWO, torch.bfloat16)
    places[0, 0, 0, 0], places[1, 1], weights[1, 2, 0] = math.nan, math.inf, math.nan
    pushed, found = torch.randn(2, 9, 5), []
    for is_fixed in (True, False):
        in_fixed_order(is_fixed)
        found.append(_results(read_by_kernel, (value, places, weights), TWO, pushed)[1])
    fixed, fast = found
    assert fast.dtype == fixed.dtype and fast.stride() == fixed.stride() and not fast.isnan().all()
    torch.testing.assert_close(fast, fixed, equal_nan=True)


def test_levels_that_nobody_reads_get_zeros():
    value, places, weights = _inputs(1, 2, 8, 2, 4, TWO)
    places[..., 2:] = 50.0
    _, of_value, *_ = _assert_same((value, places, weights), TWO)
    assert not of_value[:, :, 20:].any()
    assert of_value[:, :, :20].any()


@pytest.mark.parametrize(("images", "queries", "shapes"), [(1, 0, TWO), (0, 3, TWO), (1, 3, ((0, 0), (0, 2)))])
def test_nothing_to_read(images, queries, shapes):
    _, of_value, *_ = _assert_same(_inputs(images, 2, 8, 2, queries, shapes), shapes)
    assert not of_value.any()


def test_tensors_with_gaps_in_memory():
    value, places, weights = _inputs(2, 1, 8, 1, 5, TWO)
    apart = torch.stack((value, value), -1)[..., 0], places.mT.contiguous().mT, torch.stack((weights, weights))[1]
    pushed = torch.randn(1, 1, 8).expand(2, 5, 8)
    for one, other in zip(
        _results(read_by_kernel, apart, TWO, pushed),
        _results(read_by_kernel, (value, places, weights), TWO, pushed.contiguous()),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_no_bit_depends_on_the_configuration(monkeypatch):
    shapes = ((3, 4), (1, 2))
    inputs, pushed = _inputs(1, 1, 16, 1, 75, shapes), torch.randn(1, 75, 16)
    tuned = [getattr(deformable_read_kernels, kernel) for kernel in KERNELS]
    all_configurations = [kernel.configs for kernel in tuned]
    found = []
    for number in range(max(map(len, all_configurations))):
        for kernel, configurations in zip(tuned, all_configurations, strict=True):
            monkeypatch.setattr(kernel, "configs", [configurations[number % len(configurations)]])
        found.append(_results(read_by_kernel, inputs, shapes, pushed))
        for one, first, name in zip(found[-1], found[0], NAMES, strict=True):
            assert torch.equal(one, first), (name, [str(kernel.configs[0]) for kernel in tuned])


class _Called(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **kwargs or {})


def test_no_operator_waits_for_the_device_or_adds_in_any_order(monkeypatch):
    for kernel in KERNELS:  # the interpreter's own copies are not what runs on a GPU
        monkeypatch.setattr(deformable_read_kernels, kernel, defaultdict(lambda: lambda *_, **__: None))
    value, places, weights = _inputs(1, 2, 8, 2, 6, TWO)
    sides = [side for shape in TWO for side in shape]
    pushed, called = torch.randn(2, 6, 8), _Called()
    with called:
        deformable_read_triton._read._init_fn(value, places, weights, sides)
        deformable_read_triton._gradients._init_fn(pushed, value, places, weights, sides)
    views = {"aten::view", "aten::transpose.int", "aten::_unsafe_view", "aten::flatten.using_ints", "aten::detach"}
    fresh = {"aten::new_empty", "aten::empty_like", "aten::empty.memory_format", "aten::arange", "aten::arange.start"}
    assert called.names <= views | fresh | {"aten::sort.stable", "aten::searchsorted.Tensor"}


def test_compiled_whole_with_the_same_bits():
    inputs, pushed = _inputs(1, 1, 8, 1, 3, TWO), torch.randn(1, 3, 8)
    compiled = torch.compile(read_by_kernel, backend="aot_eager", fullgraph=True)
    ours, theirs = (_results(read, inputs, TWO, pushed) for read in (compiled, read_by_kernel))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_chosen_configurations_are_reported():
    for is_fixed in (True, False):
        in_fixed_order(is_fixed)
        _results(read_by_kernel, _inputs(1, 1, 8, 1, 1, TWO), TWO, torch.randn(1, 1, 8))
    chosen = deformable_read_triton.chosen()
    assert set(chosen) == set(KERNELS)
    assert all("TILE: 512" in text for configurations in chosen.values() for text in configurations.values())
