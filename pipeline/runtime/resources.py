"""What one worker of a stage takes of its machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

GIB = 2**30
BASE_MEMORY = 3 * GIB // 2
"""Bytes of a worker's memory without its weights: libraries, a partition's rows, and a batch of images."""


@dataclass(frozen=True)
class Resources:
    """What one worker takes while it lives. A Ray cluster sets it aside for each actor; the local engine does not count it."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = BASE_MEMORY
    """Bytes."""
    gpu_where_any: bool = False
    """Whether the worker takes a GPU where machines have some, and does without one elsewhere."""

    @classmethod
    def on(cls, device: str, weights: Iterable[Path] = ()) -> Self:
        """A core, the GPU that setting `device` ("auto", "cpu", "cuda", "cuda:1") asks for, and memory for the weights."""
        memory = BASE_MEMORY + sum(map(_size, weights))
        return cls(gpus=float(device.startswith("cuda")), memory=memory, gpu_where_any=device == "auto")

    def where(self, *, any_gpus: bool, share: float = 1.0) -> Self:
        """These resources on machines with or without GPUs, where `share` of a GPU is enough for one worker."""
        takes_gpu = self.gpus or (self.gpu_where_any and any_gpus)
        return replace(self, gpus=share if takes_gpu else 0.0, gpu_where_any=False)

    def __str__(self) -> str:
        cpus, gpus = (f"{number:g} {unit}" for number, unit in ((self.cpus, "CPU"), (self.gpus, "GPU")))
        return f"{cpus}, {gpus} and {self.memory / GIB:.1f} GiB of memory"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
