"""Deformable attention: gradients, bits, edges. test_recordings.py compares networks' reads with the authors' code."""

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import deformable_read
from models.deformable_attention import DeformableAttention, References

SHAPES = [(4, 5), (2, 3)]
TOKENS = 26


def _layer(width=8):
    layer = DeformableAttention(width, levels=2, heads=2, points=3).double()
    layer.reset_parameters()
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return layer


def _read(value_NSC, places, weights, shapes):
    """Reads the values of a single image."""
    return deformable_read.read(value_NSC[None], places, weights, shapes)


def test_padded_tokens_are_not_read():
    layer, queries, memory = _layer(), torch.randn(1, 3, 8).double(), torch.randn(1, TOKENS, 8).double()
    references = References.at_points(torch.rand(1, 3, 2, 2).double(), SHAPES, layer.points)
    padding = torch.rand(1, TOKENS) < 0.4
    changed = torch.where(padding[..., None], memory + 5, memory)
    read = layer(queries, references, memory, SHAPES, padding)
    torch.testing.assert_close(layer(queries, references, changed, SHAPES, padding), read)
    assert (layer(queries, references, changed, SHAPES, None) - read).abs().max() > 1e-3


def test_gradients():
    layer = _layer()
    boxes = (torch.rand(1, 2, 2, 4).double() * 0.4 + 0.3).requires_grad_()
    queries = torch.randn(1, 2, 8, dtype=torch.double, requires_grad=True)
    memory = torch.randn(1, TOKENS, 8, dtype=torch.double, requires_grad=True)

    def read(queries, memory, boxes, *_):
        return layer(queries, References.in_boxes(boxes, SHAPES, layer.points), memory, SHAPES, None)

    inputs = (queries, memory, boxes, *layer.parameters())
    assert torch.autograd.gradcheck(read, inputs, eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("queries", [0, 17])
def test_the_fast_reading_is_the_plain_one(queries):
    inputs = [
        torch.randn(4, TOKENS, 5),
        torch.rand(4, queries, 2, 6) * 12 - 4,  # many outside the maps
        torch.rand(4, queries, 6),
    ]
    inputs[1][:, :1] = inputs[1][:, :1].round()  # and some exactly on a cell
    pushed = torch.randn(4, queries, 5)
    found = []
    for function in (_read, deformable_read.read_plainly):
        leaves = [x.clone().requires_grad_() for x in inputs]
        read = function(*leaves, tuple(SHAPES))
        found.append([read, *torch.autograd.grad(read, leaves, pushed)])
    for fast, plain, name in zip(*found, ("output", "grad_value", "grad_places", "grad_weights"), strict=True):
        if name == "grad_places":  # at a cell's centre the slope to either side is correct
            fast, plain = fast[:, 1:], plain[:, 1:]
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("threads", [1, 5])
def test_no_bit_depends_on_threads_or_on_other_images(monkeypatch, threads):
    monkeypatch.setattr(deformable_read, "SHARED", 0)
    inputs = torch.randn(3, TOKENS, 2, 8), torch.rand(3, 40, 2, 2, 6) * 8 - 2, torch.rand(3, 40, 2, 6)
    pushed = torch.randn(3, 40, 2, 8)

    def results(rows):
        leaves = [x[rows].clone().requires_grad_() for x in inputs]
        read = deformable_read.read_on_cpu(*leaves, tuple(SHAPES))
        return read, *torch.autograd.grad(read, leaves, pushed[rows])

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        each = [torch.cat(of_images) for of_images in zip(*(results(slice(i, i + 1)) for i in range(3)), strict=True)]
        torch.set_num_threads(threads)
        together = results(slice(None))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(each, together, strict=True))


def _digest(seed: int) -> str:
    """A digest of what is read of random maps, and of its gradients."""
    draws = torch.Generator().manual_seed(seed)
    sizes = ((2, TOKENS, 2, 8), (2, 40, 2, 2, 6), (2, 40, 2, 6))
    leaves = [torch.rand(size, generator=draws).mul_(8).sub_(2).requires_grad_() for size in sizes]
    read = deformable_read.read_on_cpu(*leaves, tuple(SHAPES))
    found = read, *torch.autograd.grad(read, leaves, read.detach().square())
    return hashlib.sha256(b"".join(x.detach().numpy().tobytes() for x in found)).hexdigest()


def test_an_older_processor_computes_the_same_bits_and_needs_no_triton(root):
    code = f"import sys; sys.modules['triton'] = None; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    code += "from test_deformable_attention import _digest; print(_digest(3))"
    processor = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **processor, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == _digest(3), done.stderr


def test_places_that_are_no_numbers_read_as_none():
    places = torch.full((1, 1, 2, 6), math.nan)
    read = _read(torch.randn(1, TOKENS, 5), places, torch.ones(1, 1, 6), tuple(SHAPES))
    assert read.isnan().all()
    far = _read(torch.randn(1, TOKENS, 5), places.fill_(1e30), torch.ones(1, 1, 6), tuple(SHAPES))
    assert not far.any()


def test_torch_compile_takes_it_whole_and_computes_the_same_bits():
    layer = _layer(16).float()  # Its heads are as wide as those above, so Numba compiles nothing again.
    queries = torch.randn(2, 3, 16, requires_grad=True)
    memory, points = torch.randn(2, TOKENS, 16, requires_grad=True), torch.rand(2, 3, 2, 2)

    def step(function):
        read = function(queries, memory, points)
        return read, *torch.autograd.grad(read.square().sum(), [queries, memory, *layer.parameters()])

    def read(queries, memory, points):
        return layer(queries, References.at_points(points, SHAPES, layer.points), memory, SHAPES, None)

    compiled = step(torch.compile(read, backend="aot_eager", fullgraph=True))
    assert all(torch.equal(one, other) for one, other in zip(step(read), compiled, strict=True))


def test_second_derivatives_are_refused():
    value = torch.randn(1, TOKENS, 5, requires_grad=True)
    read = _read(value, torch.rand(1, 2, 2, 6), torch.rand(1, 2, 6), tuple(SHAPES))
    (slope,) = torch.autograd.grad(read.square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        slope.sum().backward()
