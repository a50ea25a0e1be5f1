"""Measures how fast a training run is, what it waits for, and how much of the device's speed it uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

GIB = 2**30


@dataclass(frozen=True)
class Throughput:
    """The sums over some steps of one process. All times are in seconds."""

    steps: int
    waited: float
    """Time from the end of a step until the next batch is there."""
    worked: float
    """Time from then until the end of the step."""
    images: int
    """Images of all processes."""
    shown_pixels: int
    """Pixels that show an image."""
    batch_pixels: int
    """Pixels of the batches, with padding."""
    flops: int
    """Floating-point operations of the model, of this process."""
    peak: float | None
    """Floating-point operations per second that the device of this process can do; None: not known."""
    memory_gib: float

    def values(self) -> dict[str, float]:
        """Returns the metrics by name.

        images_per_second; data_wait: share of the time that is spent waiting for data; padding: share of the batches' pixels
        that shows no image; memory_gib: as in `memory_gib`; mfu: model FLOPs utilisation, i.e. FLOPs / (seconds · peak),
        with the waiting included (PaLM, arXiv 2204.02311, appendix B), where the FLOPs and the peak are known.
        """
        seconds = max(self.waited + self.worked, 1e-9)
        found = {
            "images_per_second": self.images / seconds,
            "data_wait": self.waited / seconds,
            "padding": 1 - self.shown_pixels / max(self.batch_pixels, 1),
            "memory_gib": self.memory_gib,
        }
        if self.peak and self.flops:
            found["mfu"] = self.flops / (seconds * self.peak)
        return found


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
        self._clear()

    def loaded(self) -> None:
        """A batch is there; the time since the last call was spent waiting for it."""
        self._waited += self._lap()

    def trained(self, images: int, shown_pixels: int, batch_pixels: int, flops: int = 0) -> None:
        """A step is over. `images` of all processes, pixels and FLOPs of this one; `flops` 0: not counted."""
        self._worked += self._lap()
        self._steps += 1
        self._images += images
        self._shown += shown_pixels
        self._batch += batch_pixels
        self._flops += flops

    def pause(self) -> None:
        """Leaves out the time since the last call, for what is no part of a step, such as a checkpoint."""
        self._lap()

    def take(self) -> Throughput:
        """Returns the sums since the last time, and begins anew."""
        taken = Throughput(
            steps=self._steps,
            waited=self._waited,
            worked=self._worked,
            images=self._images,
            shown_pixels=self._shown,
            batch_pixels=self._batch,
            flops=self._flops,
            peak=self._peak,
            memory_gib=memory_gib(self._device),
        )
        self._clear()
        return taken

    def _lap(self) -> float:
        now = self._clock()
        passed, self._last = now - self._last, now
        return passed

    def _clear(self) -> None:
        self._waited = self._worked = 0.0
        self._steps = self._images = self._shown = self._batch = self._flops = 0


def memory_gib(device: torch.device) -> float:
    """Returns the memory of this process in GiB.

    On a GPU that is the most that PyTorch had allocated there so far. On a CPU it is the proportional set size (PSS), which
    divides shared memory by the processes that share it, or the resident set size where the system does not tell the PSS.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    process = psutil.Process()
    try:
        return float(process.memory_full_info().pss) / GIB
    except (AttributeError, psutil.Error):
        return float(process.memory_info().rss) / GIB
