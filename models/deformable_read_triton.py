"""The sampling step of deformable attention on a GPU, by Triton kernels.

Their sums have a fixed order under `torch.use_deterministic_algorithms`; otherwise the gradient of values is added up
in any order, which needs no sort.

Shapes: B images, M heads, N = B·M, Q queries, S tokens of all levels, C channels per head, LK levels times points.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from functools import cache
from math import gcd
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor

LEAST_TRITON = "3.6"
"""The version that ships with the oldest supported PyTorch."""
LEAST_CAPABILITY = (8, 0)
MOST_CHANNELS = 128
MOST_PROGRAMS = 2**16 - 1
"""CUDA's limit for the second axis of a grid."""
LARGEST_NUMBER = 2**30
"""Indices must stay below this, since they have 32 bits within the kernels."""

OFF = "RLIP_TRITON=0"
"""The setting in the environment that turns the kernels off."""

logger = logging.getLogger(__name__)


def read_by_kernel(
    value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Same as `models.deformable_read.read`, for inputs that are not `unfit`."""
    read_NQC: Tensor = _read(value_BMSC, places_NQ2LK, weights_NQLK, [side for shape in shapes for side in shape])
    return read_NQC


def unfit(
    value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Sequence[tuple[int, int]]
) -> str | None:
    """Says why the kernels can't read these inputs on their device, or None if they can. Each reason is logged once."""
    reason = _unfit_inputs(value_BMSC, places_NQ2LK, weights_NQLK, shapes) or unfit_machine(value_BMSC.device.index)
    if reason is not None:
        _log(reason)
    return reason


def _unfit_inputs(
    value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, shapes: Sequence[tuple[int, int]]
) -> str | None:
    if value_BMSC.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"values are {value_BMSC.dtype}, not of 32 or 16 bits"
    if not places_NQ2LK.dtype == weights_NQLK.dtype == torch.float32:
        # In 16 bits, a place in a map of 80 cells is exact to a quarter of a cell at best.
        return f"places are {places_NQ2LK.dtype} and weights {weights_NQLK.dtype}, not torch.float32"
    channels = value_BMSC.shape[3]
    if not 0 < channels <= MOST_CHANNELS:
        return f"a head has {channels} channels, not 1 to {MOST_CHANNELS}"
    if len(places_NQ2LK) > MOST_PROGRAMS:
        return f"images times heads are {len(places_NQ2LK)}, more than {MOST_PROGRAMS}"
    bins = sum((height + 1) * (width + 1) for height, width in shapes)
    largest = max(
        (value_BMSC.shape[2] + 1) * max(value_BMSC.stride(2), value_BMSC.shape[1] * channels),
        len(places_NQ2LK) * bins,
        places_NQ2LK.numel(),
        weights_NQLK.shape[1] * channels,
        *(max(shape) for shape in shapes),
    )
    if largest >= LARGEST_NUMBER:
        return "the maps or queries are too large for indices of 32 bits"
    return None


# torch.compile calls the function once instead of tracing it, since it cannot trace the cache behind it.
@torch.compiler.assume_constant_result
def unfit_machine(device: int | None) -> str | None:
    """Says why the kernels can't run on a CUDA device, or None if they can."""
    return f"the environment has {OFF}" if os.environ.get("RLIP_TRITON") == "0" else _unfit_machine(device)


@cache
def _unfit_machine(device: int | None) -> str | None:
    if torch.version.hip is not None:
        return "the GPU is not one of NVIDIA's, and the kernels are compiled only for those"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, less than 8.0"
    version = _triton_version()
    if version is None:
        return "Triton is not installed; pip install 'rlip[gpu]'"
    if Version(version) < Version(LEAST_TRITON):
        return f"Triton {version} is older than {LEAST_TRITON}; pip install 'rlip[gpu]'"
    return _launch_fault()


def _launch_fault() -> str | None:
    """Says why Triton can't launch kernels, or None. It compiles the C code that launches them on each machine."""
    try:
        importlib.import_module("triton").runtime.driver.active.get_current_target()
    except Exception as error:  # of a compiler, a header or a library that is missing
        return f"Triton can't launch the kernels ({error}); install gcc and Python's headers (python3-dev)"
    return None


def _triton_version() -> str | None:
    """Returns the version of Triton (PyTorch's nightly builds have their own), or None."""
    if importlib.util.find_spec("triton") is None:
        return None
    version: str = importlib.import_module("triton").__version__
    return version


@torch.compiler.assume_constant_result
def _log(reason: str) -> None:
    _log_once(reason)


@cache
def _log_once(reason: str) -> None:
    logger.warning("deformable attention uses plain PyTorch, which is slower, because %s", reason)


def chosen() -> dict[str, dict[tuple[Any, ...], str]]:
    """Returns the configurations that tuning chose for the kernels that ran, by kernel and class of inputs."""
    kernels = _kernels()
    return {
        tuned.base_fn.__name__: {key: str(configuration) for key, configuration in tuned.cache.items()}
        for tuned in vars(kernels).values()
        if isinstance(tuned, kernels.triton.runtime.Autotuner)
    }


def _kernels() -> Any:
    """Imports the kernels, which need Triton."""
    return importlib.import_module("models.deformable_read_kernels")


@torch.library.custom_op("rlip::read_by_kernel", mutates_args=())
def _read(value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]) -> Tensor:
    kernels, inputs = _kernels(), _Inputs(value_BMSC, places_NQ2LK, weights_NQLK, sides)
    read_NQC = weights_NQLK.new_empty((*weights_NQLK.shape[:2], value_BMSC.shape[3]))
    if read_NQC.numel():
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(value_BMSC):
            kernels.read_kernel[inputs.per_query](read_NQC, *inputs.tensors, **inputs.numbers)
    return read_NQC


@_read.register_fake
def _(value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]) -> Tensor:
    return weights_NQLK.new_empty((*weights_NQLK.shape[:2], value_BMSC.shape[3]))


@torch.library.custom_op("rlip::read_by_kernel_backward", mutates_args=())
def _gradients(
    gradient_NQC: Tensor, value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Nothing in it waits for the GPU. In deterministic mode, no sum depends on which of two threads comes first."""
    of_value, of_places, of_weights = _like(value_BMSC, places_NQ2LK, weights_NQLK)
    if not weights_NQLK.numel():
        return of_value.zero_(), of_places, of_weights
    kernels, inputs = _kernels(), _Inputs(value_BMSC, places_NQ2LK, weights_NQLK, sides)
    gradient_NQC = gradient_NQC.contiguous()
    bin_NQLK = torch.empty_like(of_weights, dtype=torch.int32)
    with torch.cuda.device_of(value_BMSC):
        kernels.query_gradients_kernel[inputs.per_query](
            of_places, of_weights, bin_NQLK, gradient_NQC, *inputs.tensors, **inputs.numbers
        )
        if not torch.are_deterministic_algorithms_enabled():
            # In 32 bits, as all sums are, whatever the type of the values
            sums = torch.zeros_like(of_value, dtype=torch.float32)
            if sums.numel():
                kernels.add_value_gradient_kernel[inputs.per_query](
                    sums, gradient_NQC, *inputs.tensors[1:], **inputs.numbers | strides(sums)
                )
            return sums.to(of_value.dtype), of_places, of_weights
        # The sort is stable, so within a bin points stay ordered by query, then point. Packed with their indices into
        # 64 bits, keys would take twice the passes; `torch.sort` moves indices of 64 bits in either case.
        sorted_bins, points = bin_NQLK.flatten().sort(stable=True)
        every_bin = torch.arange(inputs.bins * inputs.programs + 1, dtype=torch.int32, device=bin_NQLK.device)
        starts = torch.searchsorted(sorted_bins, every_bin, out_int32=True)
        if of_value.numel():
            numbers = {**inputs.numbers, **strides(of_value), "tokens": inputs.tokens, "all_bins": inputs.bins}
            kernels.value_gradient_kernel[inputs.per_cell](
                of_value, gradient_NQC, *inputs.tensors[1:], points, starts, **numbers, PARTS=kernels.PARTIAL_SUMS
            )
    return of_value, of_places, of_weights


@_gradients.register_fake
def _(
    gradient_NQC: Tensor, value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(value_BMSC, places_NQ2LK, weights_NQLK)


def _like(value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns empty gradients. That of the values lies in memory as projections make them, B×S×M×C."""
    images, heads, tokens, channels = value_BMSC.shape
    of_value_BMSC = value_BMSC.new_empty((images, tokens, heads, channels)).transpose(1, 2)
    return of_value_BMSC, places_NQ2LK.new_empty(places_NQ2LK.shape), weights_NQLK.new_empty(weights_NQLK.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.sides = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient_NQC: Tensor) -> tuple[Tensor | None, ...]:
    # The last input, the sides of the maps, has no gradient.
    return *_gradients(gradient_NQC, *ctx.saved_tensors, ctx.sides), None


_read.register_autograd(_backward, setup_context=_keep)


class _Inputs:
    """The arguments that the launches of all kernels share."""

    def __init__(self, value_BMSC: Tensor, places_NQ2LK: Tensor, weights_NQLK: Tensor, sides: Sequence[int]) -> None:
        shapes = list(zip(sides[::2], sides[1::2], strict=True))
        if value_BMSC.stride(3) != 1:
            value_BMSC = value_BMSC.contiguous()
        _, self.heads, self.tokens, channels = value_BMSC.shape
        self.programs, self.queries, columns = weights_NQLK.shape
        self.bins = sum((height + 1) * (width + 1) for height, width in shapes)
        self.tensors = value_BMSC, places_NQ2LK.contiguous(), weights_NQLK.contiguous()
        self.padded = 1 << (channels - 1).bit_length()
        packed = _kernels().packed
        self.numbers = {
            "levels": tuple(packed(height, width) for height, width in shapes),
            "size": (self.programs * self.queries).bit_length(),
            "heads": self.heads,
            "queries": self.queries,
            "LEVELS": len(shapes),
            "POINTS": columns // len(shapes),
            "CHANNELS": channels,
            "PADDED": self.padded,
            # The compiler would fuse products with sums as it likes; the kernels say where.
            "enable_fp_fusion": False,
            **strides(value_BMSC),
        }

    def per_query(self, chosen: dict[str, Any]) -> tuple[int, int]:
        """Returns the grid of a kernel whose programs have a tile of queries and channels."""
        return -(-self.queries * self.padded // chosen["TILE"]), self.programs

    def per_cell(self, chosen: dict[str, Any]) -> tuple[int, int]:
        """Returns the grid of a kernel whose programs have a tile of cells, partial sums and channels."""
        return -(-self.tokens // max(1, chosen["TILE"] // (self.padded * chosen["PARTS"]))), self.programs


def strides(value_BMSC: Tensor) -> dict[str, int]:
    """Returns the strides of values as the kernels take them: in multiples of UNIT, the last being 1."""
    image, head, token, _ = value_BMSC.stride()
    unit = gcd(image, head, token, 16)
    return {"image_stride": image // unit, "head_stride": head // unit, "token_stride": token // unit, "UNIT": unit}
