"""The images that the streaming benchmark writes and reads: photographs of COCO, repeated, with labels for each."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from storage.shards.writer import Sample

SYNTHETIC = 64
LABEL_BYTES = 2000


@dataclass(frozen=True)
class Photos:
    """Image files, each of which exists on its own so that the page cache holds as many bytes as are read."""

    paths: list[Path]
    sizes: list[tuple[int, int]]
    """Width and height of each in pixels."""
    origin: str
    """Where they come from, for the report."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def megabytes(self) -> float:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.paths) / 1e6

    def first(self, count: int) -> Photos:
        """Returns the first of them."""
        return Photos(self.paths[:count], self.sizes[:count], self.origin)

    def samples(self) -> Iterator[Sample]:
        """Reads each file and yields its sample."""
        for number, (path, (width, height)) in enumerate(zip(self.paths, self.sizes, strict=True)):
            yield Sample("coco", number, {"jpg": path.read_bytes(), "json": label(number)}, width, height)


def label(number: int) -> bytes:
    """Returns the labels of an image: JSON of about `LABEL_BYTES` bytes, like that of seven boxes with relations."""
    box = {"category": "person", "bbox": [12.25, 34.5, 200.75, 180.5], "relations": [["holding", number % 7, 0.83]]}
    boxes = [box] * (LABEL_BYTES // len(json.dumps(box)))
    return json.dumps({"image_id": number, "boxes": boxes}).encode()


def write_photos(source: Path, folder: Path, megabytes: float) -> Photos:
    """Repeats the JPEGs of a folder up to a size; synthetic ones if there are none."""
    there = [path.read_bytes() for path in sorted(source.glob("*.jpg"))] if source.is_dir() else []
    origin = f"{len(there)} photographs of {source}, repeated" if there else f"{SYNTHETIC} synthetic JPEGs, repeated"
    originals = there or [_synthetic(number) for number in range(SYNTHETIC)]
    sizes = [Image.open(io.BytesIO(data)).size for data in originals]
    repeats = max(1, round(megabytes * 1e6 / sum(map(len, originals))))
    folder.mkdir(parents=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(len(originals) * repeats)]
    for number, path in enumerate(paths):
        path.write_bytes(originals[number % len(originals)])
    return Photos(paths, sizes * repeats, origin)


def _synthetic(number: int) -> bytes:
    """Returns a JPEG of smoothed noise with the size and detail of a photograph."""
    grains = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grains).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "jpeg", quality=95)
    return buffer.getvalue()


def rgb(data: bytes) -> Tensor:
    """Decodes a JPEG to 3 x height x width bytes with torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bytes can't be written to, and nobody does
        return decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), mode=ImageReadMode.RGB)
