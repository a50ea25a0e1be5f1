"""Measures the input path of captioning: `python benchmarks/images.py FOLDER` (of JPEGs; noise if none is named).

Prints CPU milliseconds per image, from the file to normalised floats of 384 x 384, on the same files:

torchvision   a bare loop without checks: read_file, decode_jpeg, v2.Resize, v2.normalize
ours          like stage `caption`: `read_resized` (checks limits, reports bad files), then `Pixels`
pillow        Pillow decodes and resizes, then `Pixels`
ahead         `ours` on two threads by `read_ahead`, CPU time of all threads

Also prints how far ours and torchvision's grey levels are from Pillow's, which resizes across, then down.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from pipeline.captioning.network import CLIP_DEVIATION, CLIP_MEAN, Pixels
from pipeline.data.images.opening import DEFAULT_LIMITS, BadImage, ImageLimits, read_image
from pipeline.data.images.prefetch import read_ahead
from pipeline.data.images.refs import ImageRef
from pipeline.data.images.resize import read_resized
from pipeline.runtime.processes import keep_freed_memory

SIDE = 384
RESIZE = v2.Resize((SIDE, SIDE), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
PIXELS = Pixels(Path("no folder: BLIP's own mean and deviation"), SIDE, torch.device("cpu"), torch.float32)
ROUNDS = 3


def render_small(path: Path) -> Tensor:
    return RESIZE(decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB))


def bare(path: Path) -> Tensor:
    scaled = transforms.to_dtype(render_small(path), scale=True)
    return transforms.normalize(scaled, list(CLIP_MEAN), list(CLIP_DEVIATION), inplace=True)


def square(place: ImageRef, limits: ImageLimits = DEFAULT_LIMITS) -> Tensor:
    return read_resized(place, SIDE, SIDE, limits)


def ours(path: Path) -> Tensor:
    return PIXELS([square(path)])


def resized_by_pillow(path: Path) -> np.ndarray:
    image = read_image(path)
    across = image.resize((SIDE, image.height), Image.Resampling.BICUBIC)
    return np.array(across.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def pillow(path: Path) -> Tensor:
    return PIXELS([torch.from_numpy(resized_by_pillow(path)).permute(2, 0, 1).float()])


def each(read: Callable[[Path], Tensor], paths: Iterable[Path]) -> None:
    for path in paths:
        read(path)


def ahead(paths: Iterable[Path]) -> None:
    for levels in read_ahead(paths, square):
        assert not isinstance(levels, BadImage), levels
        PIXELS([levels])


WAYS: dict[str, Callable[[list[Path]], None]] = {
    "torchvision": partial(each, bare), "ours": partial(each, ours), "pillow": partial(each, pillow), "ahead": ahead,
}  # fmt: skip


def noise(folder: Path, images: int) -> list[Path]:
    """Writes JPEGs of smoothed noise, with the size and detail of photographs."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(images)]
    for path in paths:
        small = Image.fromarray(generator.integers(0, 255, (60, 80, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def measure(paths: list[Path]) -> dict[str, float]:
    """Returns each way's CPU milliseconds per image, the minimum of `ROUNDS` interleaved rounds."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            began = time.process_time()
            way(paths)
            best[name] = min(best[name], (time.process_time() - began) / len(paths) * 1000)
    return {name: round(ms, 3) for name, ms in best.items()}


def difference(paths: list[Path], read: Callable[[Path], Tensor]) -> dict[str, int]:
    """Compares grey levels with Pillow's: largest difference, values that differ at all and by more than one level."""
    largest = off = above = values = 0
    for path in paths:
        found = np.abs(resized_by_pillow(path).astype(int) - read(path).permute(1, 2, 0).numpy().astype(int))
        largest, values = max(largest, int(found.max())), values + found.size
        off, above = off + int((found > 0).sum()), above + int((found > 1).sum())
    return {"largest": largest, "off": off, "above_one": above, "values": values}


def main() -> None:
    """Measures, and prints a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the engine's workers do
    with tempfile.TemporaryDirectory() as name:
        there = sorted(given.folder.glob("*.jpg"))[: given.images] if given.folder else noise(Path(name), given.images)
        found = measure(there)
        differs = {"ours": difference(there, square), "torchvision": difference(there, render_small)}
    print(f"{len(there)} images\n{'':13}{'ms/image':>12}{'speed':>8}")
    for way, milliseconds in found.items():
        print(f"{way:13}{milliseconds:12.2f}{found['torchvision'] / milliseconds:7.2f}x")
    for way, apart in differs.items():
        print(
            f"{way} against Pillow: {apart['off']:,} of {apart['values']:,} values differ, {apart['above_one']} by "
            f"more than one grey level; largest difference {apart['largest']}"
        )
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"images": len(there), **found, "difference": differs, **machine}))


if __name__ == "__main__":
    main()
