"""Reading on a GPU: when Triton kernels are used, what they compute (on Triton's interpreter), what they compile to.

No GPU is needed.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.kernel import KERNELS, compiled, resources
from models import deformable_read, deformable_read_triton
from models.deformable_read import read
from models.deformable_read_triton import read_by_kernel

SHAPES = ((4, 5), (2, 3))
LAUNCH_FAULT = deformable_read_triton._launch_fault


@pytest.fixture
def kernels():
    """The module of the kernels, or a skip."""
    pytest.importorskip("triton", reason="Triton is not installed (pip install 'rlip[gpu]')")
    from models import deformable_read_kernels

    return deformable_read_kernels


@pytest.fixture
def a_gpu(monkeypatch):
    """Makes this machine seem to have a GPU of compute capability 8.0, and a fitting Triton."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(deformable_read_triton, "_triton_version", lambda: deformable_read_triton.LEAST_TRITON)
    monkeypatch.setattr(deformable_read_triton, "_launch_fault", lambda: None)
    for told in (deformable_read_triton._unfit_machine, deformable_read_triton._log_once):
        told.cache_clear()
    yield
    for told in (deformable_read_triton._unfit_machine, deformable_read_triton._log_once):
        told.cache_clear()


def test_values_and_gradients_on_the_interpreter(kernels, root):
    tests = Path(__file__).with_name("interpreted_read.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", str(tests)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def reads_by(a_gpu, monkeypatch):
    """A function that reads on that GPU, without data and gradients, and returns who reads: "kernel" or "PyTorch"."""

    def plainly(value_NSC, places_NQ2LK, weights_NQLK, shapes):
        readers.append("PyTorch")
        return value_NSC.new_empty((*weights_NQLK.shape[:2], value_NSC.shape[2]))

    def by_kernel(*inputs):
        readers.append("kernel")
        return read_by_kernel(*inputs)

    def reads(dtype=torch.float32, channels=8, precision=torch.float32):
        readers.clear()
        with FakeTensorMode(), torch.no_grad():
            assert read(*_inputs(dtype, channels, precision), SHAPES).shape == (8, 3, channels)
        return readers

    readers: list[str] = []
    monkeypatch.setattr(deformable_read, "read_plainly", plainly)
    monkeypatch.setattr(deformable_read, "read_by_kernel", by_kernel)
    return reads


def _inputs(dtype=torch.float32, channels=8, precision=torch.float32):
    value = torch.empty(2, 26, 4, channels, dtype=dtype, device="cuda").transpose(1, 2)
    places = torch.empty(8, 3, 2, 4, dtype=precision, device="cuda")
    return value, places, torch.empty(8, 3, 4, dtype=precision, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_reads_by_the_kernels(reads_by, dtype):
    assert reads_by(dtype) == ["kernel"]


def test_torch_compile_takes_the_kernels_whole(a_gpu):
    called = []

    def keep(module, inputs):
        called.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return module.forward

    with FakeTensorMode(), torch.no_grad():
        torch.compile(read, backend=keep, fullgraph=True)(*_inputs(), SHAPES)
    assert "rlip.read_by_kernel.default" in called


@pytest.mark.parametrize("inputs, words", [
    ({"dtype": torch.float64, "precision": torch.float64}, "values are torch.float64"),
    ({"dtype": torch.bfloat16, "precision": torch.bfloat16}, "places are torch.bfloat16"),
    ({"channels": 129}, "a head has 129 channels, not 1 to 128"),
])  # fmt: skip
def test_inputs_that_the_kernels_dont_take_are_read_by_pytorch_with_a_word(reads_by, caplog, inputs, words):
    for _ in range(2):
        assert reads_by(**inputs) == ["PyTorch"]
    (told,) = caplog.records
    assert words in told.message


@pytest.mark.parametrize("place, name, value, words", [
    (deformable_read_triton, "_triton_version", lambda: None, "Triton is not installed; pip install 'rlip[gpu]'"),
    (deformable_read_triton, "_triton_version", lambda: "3.5.1", "Triton 3.5.1 is older"),
    (torch.cuda, "get_device_capability", lambda device=None: (7, 5), "compute capability 7.5, less than 8.0"),
    (torch.version, "hip", "7.0", "not one of NVIDIA's"),
])  # fmt: skip
def test_a_machine_that_the_kernels_do_not_fit(reads_by, caplog, monkeypatch, place, name, value, words):
    monkeypatch.setattr(place, name, value)
    assert reads_by() == ["PyTorch"]
    assert words in caplog.text


def test_a_machine_without_a_compiler_for_what_launches_kernels(kernels, reads_by, caplog, monkeypatch):
    def missing(_) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(deformable_read_triton, "_launch_fault", LAUNCH_FAULT)
    monkeypatch.setattr(type(kernels.triton.runtime.driver), "active", property(missing))
    assert reads_by() == ["PyTorch"]
    assert "can't launch the kernels (Failed to find C compiler); install gcc" in caplog.text


@pytest.mark.parametrize("sizes, queries, words", [
    ((1, 2**16, 1, 1), 1, "images times heads are 65536"),
    ((1, 1, 2**26, 32), 1, "too large for indices of 32 bits"),
    ((1, 8, 4, 32), 2**24, "too large for indices of 32 bits"),
])  # fmt: skip
def test_what_would_overflow_is_refused(a_gpu, sizes, queries, words):
    with torch.device("meta"):
        value, programs = torch.empty(*sizes), sizes[0] * sizes[1]
        places, weights = torch.empty(programs, queries, 2, 4), torch.empty(programs, queries, 4)
    reason = deformable_read_triton.unfit(value, places, weights, ((1, sizes[2]),))
    assert words in reason


*FIXED_ORDER, ANY_ORDER = KERNELS


# `make bench-kernel` compiles every size for each GPU.
SIZES = [(8, 1, 80), (24, 1, 90), (32, 4, 80), (64, 1, 90)]


@pytest.mark.parametrize(
    ("name", "channels", "levels", "capability"),
    [*((name, *size) for name in FIXED_ORDER for size in SIZES), (ANY_ORDER, 32, 4, 80)],
)
def test_every_configuration_compiles_without_spills_and_adds_in_one_order(kernels, name, channels, levels, capability):
    kernel, orders = getattr(kernels, name), set()
    dtype = "bf16" if capability == 90 else "fp32"
    for configuration in kernel.configs:
        found = compiled(kernel, configuration, capability, dtype, channels, levels)
        used = resources(found)
        assert used["spill_bytes"] == 0, configuration
        # 48 KiB is what a program gets anywhere without asking.
        assert used["shared_bytes"] <= 48 * 1024, configuration
        orders |= _orders_of_sums(found.asm["ttgir"])
    assert len(orders) == (name == "query_gradients_kernel")


def _orders_of_sums(code: str) -> set[tuple[str, str]]:
    """Returns how many neighbours along the summed axis a thread has, and how many threads share it, for each sum."""
    layouts = dict(re.findall(r"(#\w+) = #ttg\.blocked<\{(.*?)\}>", code))
    orders = set()
    for axis, layout in re.findall(
        r'"tt\.reduce"\(.*?\) <\{axis = (\d).*?\}> \(\{.*?\}\) : \(tensor<[^>]*?xf32, (#\w+)>\)', code, re.S
    ):
        numbers = [
            re.search(rf"{name} = \[(.*?)\]", layouts[layout])[1].split(", ")[int(axis)]
            for name in ("sizePerThread", "threadsPerWarp", "warpsPerCTA")
        ]
        assert numbers[2] == "1"
        orders.add(tuple(numbers[:2]))
    return orders


def test_the_extra_names_the_least_triton(root):
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["gpu"][0].startswith(f"triton>={deformable_read_triton.LEAST_TRITON} ")
