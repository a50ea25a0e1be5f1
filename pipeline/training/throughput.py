"""Measures how fast a training run is, what it waits for, and how much of the device's speed it uses.

Of the floating-point operations (FLOPs) of steps, a few are counted, the others estimated from those. `view_flops`
counts before a training run begins, on a network without values.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.rlip import RLIP
from pipeline.data.images.training_view import padded
from pipeline.runtime.stage import GIB
from pipeline.training.settings import TrainingSettings


class StepTimer:
    """Adds up the steps of one process: `loaded` when a batch is there, `trained` at the end of its step, then `take`.

    On a GPU, work that a step leaves in the device's queue counts as part of the next one, so single steps are inexact
    and the sums are not.
    """

    def __init__(
        self, device: torch.device, peak: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`peak`: the floating-point operations per second that the device can do (`device_peak`); None: not known."""
        self._device, self._peak, self._clock = device, peak, clock
        self._last = clock()
        self._whole_waited = self._whole_worked = self._waited = self._worked = 0.0
        self._clear()

    def loaded(self) -> None:
        """Counts the time since the last call as spent waiting for a batch."""
        self._waited += self._lap()

    def trained(self, images: int, shown_pixels: int, batch_pixels: int, flops: int = 0) -> None:
        """Counts the time since the last call as that of a step. `images` of all processes, pixels and FLOPs of this
        one; `flops` 0: not counted."""
        self._worked += self._lap()
        self._images += images
        self._shown += shown_pixels
        self._batch += batch_pixels
        self._flops += flops

    def pause(self) -> None:
        """Excludes the time since the last call, which was no part of a step, such as a checkpoint."""
        self._lap()

    def take(self) -> dict[str, float]:
        """Returns the metrics of the steps since the last call, by name, and starts over.

        images_per_second; data_wait: share of the time that is spent waiting for data; padding: share of the batches'
        pixels that shows no image; memory_gib: as in `memory_gib`; mfu: model FLOPs utilisation, i.e. FLOPs / (seconds
        · peak), with the waiting included (PaLM, arXiv 2204.02311, appendix B), where the FLOPs and the peak are known.
        """
        seconds = max(self._waited + self._worked, 1e-9)
        values = {
            "images_per_second": self._images / seconds,
            "data_wait": self._waited / seconds,
            "padding": 1 - self._shown / max(self._batch, 1),
            "memory_gib": memory_gib(self._device),
        }
        if self._peak and self._flops:
            values["mfu"] = self._flops / (seconds * self._peak)
        self._clear()
        return values

    @property
    def data_wait(self) -> float:
        """The share of the time of all steps, up to the last `take`, that was spent waiting for data."""
        return self._whole_waited / max(self._whole_waited + self._whole_worked, 1e-9)

    def _lap(self) -> float:
        now = self._clock()
        passed, self._last = now - self._last, now
        return passed

    def _clear(self) -> None:
        self._whole_waited += self._waited
        self._whole_worked += self._worked
        self._waited = self._worked = 0.0
        self._images = self._shown = self._batch = self._flops = 0


def memory_gib(device: torch.device) -> float:
    """Returns the memory of this process in GiB.

    On a GPU that is the most that PyTorch had allocated there so far. On a CPU it is the proportional set size (PSS),
    which divides shared memory by the processes that share it, or the resident set size where the system does not
    report the PSS.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    process = psutil.Process()
    try:
        return float(process.memory_full_info().pss) / GIB
    except (AttributeError, psutil.Error):
        return float(process.memory_info().rss) / GIB


Precision = Literal["bfloat16", "medium", "tf32", "float32"]
_TERA = 1e12

_PEAKS: Mapping[str, Mapping[str, float]] = tomllib.loads(Path(__file__).with_name("peaks.toml").read_text("utf-8"))
_MAKER = re.compile(r"^(NVIDIA|Tesla)\s+")


def device_peak(device: torch.device, precision: Precision) -> float:
    """Returns the FLOP/s that a device can do: the vendor's dense figure, otherwise a measured one (`measured_peak`).

    `precision` is that of the training run.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    # On a GPU, "medium" is tf32.
    return known_peak(name, "tf32" if precision == "medium" else precision) or measured_peak(device, dtype)


def known_peak(name: str, precision: Precision) -> float | None:
    """Returns the FLOP/s of a device by its name; None for one outside the table, e.g. a part of a GPU (MIG)."""
    bare = _MAKER.sub("", name)
    peaks = next((peaks for pattern, peaks in _PEAKS.items() if re.fullmatch(pattern, bare)), {})
    return peaks[precision] * _TERA if precision in peaks else None


def measured_peak(
    device: torch.device,
    dtype: torch.dtype,
    size: int = 1024,
    seconds: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Returns the FLOP/s of the fastest of many products of two square matrices, repeated for some seconds.

    No data sheet states what a CPU does with the threads and clock that it has now. A utilisation relative to this is
    relative to the best matrix product of PyTorch here, which may be less than the device can do; a process that shares
    its cores with others measures what they leave it.
    """
    side = 8 * size if device.type == "cuda" else size
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    fastest, began = 0.0, clock()
    while True:
        start = clock()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = clock()
        fastest = max(fastest, 2 * side**3 / max(now - start, 1e-9))
        if now - began >= seconds:
            return fastest


COUNTED = 4
"""Steps that are counted."""


class StepFlops:
    """The FLOPs of steps by the pixels of their batch.

    Counting changes the order in which gradients are summed, and so low-order bits. A step is therefore counted in an
    extra pass, whose gradients are thrown away, and only the first steps of a process are counted. All processes count
    the same steps, because losses wait for those of the other processes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._counted: list[tuple[int, int]] = []

    @property
    def is_counting(self) -> bool:
        """Whether the next step should be counted."""
        return len(self._counted) < COUNTED

    def count(self, pixels: int, step: Callable[[], object]) -> None:
        """Counts a forward and backward pass over a batch of B·H·W `pixels`. Afterwards, set its gradients to None."""
        self._counted.append((pixels, count_flops(step, self._device)))

    def of(self, pixels: int) -> int:
        """Returns the FLOPs of a step: a linear function of the pixels, fitted to counted steps; 0 before the first.

        The constant part is that of the texts; what depends on more than the number of pixels is averaged.
        """
        sizes, flops = np.array(self._counted, np.float64).reshape(-1, 2).T
        if len(set(sizes)) < 2:
            return round(float(flops.mean() * pixels / sizes.mean())) if len(sizes) else 0
        slope, constant = np.polyfit(sizes, flops, 1)
        return max(0, round(float(slope * pixels + constant)))


class _ModelFlops(FlopCounterMode):
    """Leaves out what activation checkpointing computes again: in the backward pass, with hooks on what it saves."""

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if self.mod_tracker.is_bw and torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            return out
        return super()._count_flops(func_packet, out, args, kwargs)  # type: ignore[no-untyped-call]


def count_flops(step: Callable[[], object], device: torch.device) -> int:
    """Runs a step on a device and returns the floating-point operations that it took.

    Torch's random numbers continue, there and on the CPU, as if it had not run.

    Counts what `torch.utils.flop_counter` knows: matrix products, convolutions and attention, where a multiplication
    and an addition are two operations. Operations per element, such as activations, are left out, as is usual for MFU.
    Nor does MFU count what activation checkpointing computes again.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _ModelFlops(display=False) as counter:
        step()
    return int(counter.get_total_flops())


TOKENS = 5
"""Tokens of a label text, begin and end included."""


class ViewFlops(NamedTuple):
    """What a training run computes for each image that it sees."""

    flops: float
    height: int
    width: int
    """Mean sides in pixels of a micro-batch, with padding."""
    padding: float
    """Share of the pixels of micro-batches that shows no image."""


def view_flops(settings: TrainingSettings) -> ViewFlops:
    """Returns the FLOPs of the forward and backward pass for one view of an image, and the size of the batches.

    Losses are left out, as is what activation checkpointing computes again. A tagger counts as the network that finds
    its own pairs. It takes some seconds and hardly any memory, because tensors have shapes alone.
    """
    images = min(settings.micro_batch, settings.batch)
    height, width, padding = padded(settings.view, images, settings.bucket > 1)
    config = replace(settings.network, tagger=False)
    with torch.device("meta"):
        network = RLIP(config, None).train()
        pixels = torch.empty(images, 3, height, width)
        objects = settings.object_texts + 1
        texts = torch.zeros(
            objects + settings.predicate_texts, min(TOKENS, config.text.max_positions - 2), dtype=torch.long
        )

    def step() -> None:
        features = network.transformer.text_encoder.encode_tokens(texts, None)
        predicted = network.predict(pixels, None, features[:objects], features[objects:])
        layers = [predicted, *predicted.auxiliary]
        values = [value.float().sum() for layer in layers for value in layer.tensors().values()]
        torch.stack(values).sum().backward()  # type: ignore[no-untyped-call]

    return ViewFlops(count_flops(step, torch.device("cpu")) / images, height, width, padding)
