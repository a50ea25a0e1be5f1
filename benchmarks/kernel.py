"""What deformable attention's kernels need on a GPU: `python -m benchmarks.kernel`.

Compiles each kernel in each of its configurations for A100 and H100, which needs Triton and no GPU, and prints spills.
Counts the bytes and operations of an encoder layer of R50 ParSeDA, and prints the least time in which each GPU could do
them. `rlip doctor --device cuda` times the kernels beside PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, parser, run
from pipeline.run.device_reading import FAST, IN_ORDER, AttentionSizes

CAPABILITIES = (80, 90)
KERNELS = ("read_kernel", "query_gradients_kernel", "value_gradient_kernel", "add_value_gradient_kernel")
POINTERS = {"value": "*{}", "of_value": "*{}", "bins": "*i32", "points": "*i64", "starts": "*i32"}
FLOATS = ("read", "sums", "of_places", "of_weights", "places", "weights", "gradient")
DTYPES = ("fp32", "bf16")
PEAKS = {"A100 80 GB SXM": (2039e9, 19.5e12), "H100 SXM": (3350e9, 67e12)}
"""A GPU's peaks by its vendor: bytes a second, and operations in fp32 without tensor cores, unused by the kernels."""
LAYERS = {
    "two images of 512×640": AttentionSizes(queries=6800, shapes=((64, 80), (32, 40), (16, 20), (8, 10))),
    "four of 800×1333": AttentionSizes(images=4, queries=22_223),
}
"""What an encoder layer of R50 ParSeDA reads."""


def compiled(kernel: Any, configuration: Any, capability: int, dtype: str, channels: int = 32, levels: int = 4) -> Any:
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
    """Returns a compiled kernel's bytes of shared memory per program, and of spills."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(STACK|LOCAL):(\d+)", told)}
    return {"shared_bytes": kernel.metadata.shared, "spill_bytes": found["STACK"] + found["LOCAL"]}


def all_resources() -> Iterator[Row]:
    """Yields the spills of each kernel, configuration, kind of GPU and precision of values."""
    kernels = importlib.import_module("models.deformable_read_kernels")
    for name, capability, dtype in product(KERNELS, CAPABILITIES, DTYPES):
        kernel = getattr(kernels, name)
        for configuration in kernel.configs:
            used = resources(compiled(kernel, configuration, capability, dtype))
            sizes = " ".join(f"{size} {number}" for size, number in configuration.kwargs.items())
            label = f"{name}, sm_{capability}, {dtype}: {sizes}, {configuration.num_warps} warps"
            yield Row(f"{label}: spilled", "bytes", used["spill_bytes"], note=f"{used['shared_bytes']:,} shared bytes")


def all_least_times() -> Iterator[Row]:
    """Yields the least time of a layer's forward and backward pass with values in bf16."""
    for (gpu, peaks), (layer, kind) in product(PEAKS.items(), LAYERS.items()):
        counted = kind.counted(torch.bfloat16)
        for how, kernels in (("", IN_ORDER), (', deterministic = "fast"', FAST)):
            least = {kernel: 1e6 * counted[kernel].least_seconds(*peaks) for kernel in kernels}
            gathered = sum(counted[kernel].gathered for kernel in kernels) / 1e9
            note = f"the sort {least.get('sort', 0):.3g}; {gathered:.3g} GB of cells"
            yield Row(f"{layer}, {gpu}{how}", "us at least", sum(least.values()), note=note)


def measure(given: Namespace) -> Iterator[Row]:
    if importlib.util.find_spec("triton") is None:
        yield Row("Triton is not installed, so nothing is compiled", note="pip install 'rlip[gpu]'")
    else:
        yield from all_resources()
    yield from all_least_times()


if __name__ == "__main__":
    run(parser(__doc__), measure)
