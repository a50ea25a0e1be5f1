"""Images that benchmarks read: photographs of COCO, repeated, with labels for each; noise where there are none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.run.rehearsal_shards import noise
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
        return sum(path.stat().st_size for path in self.paths) / 1e6

    def first(self, count: int) -> Photos:
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


def write_photos(folder: Path, megabytes: float) -> Photos:
    """Repeats the photographs of COCO in the folder that `RLIP_SHARED` names up to a size; noise if there are none."""
    source = Path(os.environ.get("RLIP_SHARED", "../shared")) / "data/coco/sample2017"
    originals = sorted(source.glob("*.jpg"))
    origin = f"{len(originals)} photographs of {source}, repeated"
    if not originals:
        originals, origin = write_noise(folder / "noise", SYNTHETIC), f"{SYNTHETIC} images of noise, repeated"
    sizes = [Image.open(path).size for path in originals]
    data = [path.read_bytes() for path in originals]
    repeats = max(1, round(megabytes * 1e6 / sum(map(len, data))))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(len(data) * repeats)]
    for number, path in enumerate(paths):
        path.write_bytes(data[number % len(data)])
    return Photos(paths, sizes * repeats, origin)


def write_noise(folder: Path, count: int, width: int = 640, height: int = 480) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path in paths:
        path.write_bytes(noise(width, height, draws))
    return paths
