"""What deformable attention's kernels need on a GPU: `python -m benchmarks.kernel` (`--help`).

Compiles each kernel in each of its configurations for A100 and H100, which needs Triton and no GPU, and prints
registers, shared memory and spills. Counts the bytes and operations of R50 ParSeDA on two images of 512×640, and prints
the least time in which each GPU could do them. `rlip doctor --device cuda` times the kernels beside PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, parser, run
from pipeline.run.device_reading import Reading

CAPABILITIES = (80, 90)
KERNELS = ("read_kernel", "query_gradients_kernel", "value_gradient_kernel", "add_value_gradient_kernel")
POINTERS = {"value": "*{}", "of_value": "*{}", "bins": "*i32", "points": "*i64", "starts": "*i32"}
FLOATS = ("read", "sums", "of_places", "of_weights", "places", "weights", "gradient")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Peak:
    """A GPU's peaks by its vendor: TFLOP/s in fp32 without tensor cores, which the kernels don't use, and GB/s."""

    name: str
    fp32: float
    memory: float


PEAKS = (Peak("A100 80 GB SXM", 19.5, 2039), Peak("H100 SXM", 67, 3350))


SHAPES = ((64, 80), (32, 40), (16, 20), (8, 10))
LAYERS = {
    "encoder": Reading(queries=6800, shapes=SHAPES),
    "subjects and objects": Reading(queries=200, shapes=SHAPES),
    "relations": Reading(queries=100, shapes=SHAPES),
}
"""What a layer of each kind of R50 ParSeDA reads on two images of 512×640."""


def compiled(kernel: Any, configuration: Any, capability: int, dtype: str, channels: int, levels: int = 4) -> Any:
    """Compiles a kernel as a launch does whose tensors start at multiples of 16 bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {
        "UNIT": min(16, channels & -channels), "LEVELS": levels, "POINTS": 4, "CHANNELS": channels,
        "PADDED": 1 << (channels - 1).bit_length(),
        "PARTS": importlib.import_module("models.deformable_read_kernels").PARTIAL_SUMS,
        **configuration.kwargs,
    }  # fmt: skip
    types = dict.fromkeys(FLOATS, "*fp32") | {name: type_.format(dtype) for name, type_ in POINTERS.items()}
    parameters = kernel.fn.params
    signature = {
        each.name: "constexpr" if each.is_constexpr else ("i64",) * levels if each.name == "levels" else
        types.get(each.name, "i32")
        for each in parameters
    }  # fmt: skip
    source = ASTSource(
        kernel.fn,
        signature,
        {each.name: constants[each.name] for each in parameters if each.is_constexpr},
        {(at,): [["tt.divisibility", 16]] for at, each in enumerate(parameters) if each.name in types},
    )
    options = {"num_warps": configuration.num_warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(kernel: Any) -> dict[str, int]:
    """Returns a compiled kernel's registers per thread, bytes of shared memory per program, and bytes of spills."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    return {
        "registers": found["REG"],
        "shared_bytes": kernel.metadata.shared,
        "spill_bytes": found["STACK"] + found["LOCAL"],
    }


def all_resources(channels: int) -> Iterator[Row]:
    """Yields the registers of each kernel, configuration, kind of GPU and precision of values."""
    kernels = importlib.import_module("models.deformable_read_kernels")
    for name, capability, dtype in product(KERNELS, CAPABILITIES, DTYPES):
        kernel = getattr(kernels, name)
        for configuration in kernel.configs:
            used = resources(compiled(kernel, configuration, capability, dtype, channels))
            sizes = " ".join(f"{size} {number}" for size, number in configuration.kwargs.items())
            label = f"{name}, sm_{capability}, {dtype}: {sizes}, {configuration.num_warps} warps"
            note = f"{used['registers']} registers, {used['shared_bytes']:,} shared bytes"
            yield Row(f"{label}: spilled", "bytes", used["spill_bytes"], note=note)


def all_least_times() -> Iterator[Row]:
    for dtype, peak, (layers, kind) in product(DTYPES, PEAKS, LAYERS.items()):
        for name, counted in kind.counted(DTYPES[dtype]).items():
            microseconds = 1e6 * counted.least_seconds(peak.memory * 1e9, peak.fp32 * 1e12)
            note = f"memory_mb {counted.memory / 1e6:.2f}, gathered_mb {counted.gathered / 1e6:.2f}, "
            note += f"gflop {counted.operations / 1e9:.2f}"
            yield Row(f"{layers}, {name}, {dtype}, {peak.name}", "us at least", microseconds, note=note)


def measure(given: Namespace) -> Iterator[Row]:
    if importlib.util.find_spec("triton") is None:
        yield Row("Triton is not installed, so nothing is compiled", note="pip install 'rlip[gpu]'")
    else:
        yield from all_resources(given.channels)
    yield from all_least_times()


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--channels", type=int, default=32, help="channels per head that kernels are compiled for")
    run(options, measure)
