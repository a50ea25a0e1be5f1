"""The input path of captioning: `python benchmarks/images.py FOLDER` (of JPEGs; noise when none is named).

Milliseconds of one core an image, file to normalised floats of 384 x 384, the same files in turn:

torchvision   a bare loop: read_file, decode_jpeg, v2.Resize, nothing checked
fast          `read_resized`: limits checked, bad files named
exact         `read_image` and Pillow's own resize
ahead         `exact` on two threads by `read_ahead`, the processor time of all threads
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

from pipeline.image_reader import read_ahead
from pipeline.images import BadImage, read_image
from pipeline.resize import read_resized

SIDE = 384
MEAN, DEVIATION = [0.481, 0.458, 0.408], [0.269, 0.261, 0.276]
RESIZE = v2.Resize((SIDE, SIDE), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
ROUNDS = 3


def normalised(pixels_CHW: Tensor) -> Tensor:
    """The same last step for all."""
    return transforms.normalize(transforms.to_dtype(pixels_CHW, scale=True), MEAN, DEVIATION, inplace=True)


def bare(path: Path) -> Tensor:
    return normalised(RESIZE(decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)))


def fast(path: Path) -> Tensor:
    return normalised(read_resized(path, SIDE, SIDE))


def square(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def to_floats(image: Image.Image | BadImage) -> Tensor:
    if isinstance(image, BadImage):
        raise image
    return normalised(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def exact(path: Path) -> Tensor:
    return to_floats(square(read_image(path)))


def each(read: Callable[[Path], Tensor], paths: Iterable[Path]) -> None:
    for path in paths:
        read(path)


def ahead(paths: Iterable[Path]) -> None:
    for image in read_ahead(paths, prepare=square):
        to_floats(image)


WAYS: dict[str, Callable[[list[Path]], None]] = {
    "torchvision": partial(each, bare), "fast": partial(each, fast), "exact": partial(each, exact), "ahead": ahead,
}  # fmt: skip


def noise(folder: Path, images: int) -> list[Path]:
    """JPEGs of smoothed noise, of the sizes and detail of photographs."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(images)]
    for path in paths:
        small = Image.fromarray(generator.integers(0, 255, (60, 80, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def measure(paths: list[Path]) -> dict[str, float]:
    """The best of some rounds, ways in turn, in milliseconds of processor time an image."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            began = time.process_time()
            way(paths)
            best[name] = min(best[name], (time.process_time() - began) / len(paths) * 1000)
    return {name: round(ms, 3) for name, ms in best.items()}


def difference(paths: list[Path]) -> dict[str, int]:
    """Grey levels between `fast` and Pillow, across then down: the largest, and how many values differ by more than one."""
    largest = above = values = 0
    for path in paths:
        image = read_image(path)
        across = image.resize((SIDE, image.height), Image.Resampling.BICUBIC)
        found = np.abs(np.asarray(square(across)).astype(int) - read_resized(path, SIDE, SIDE).permute(1, 2, 0).numpy())
        largest, above, values = max(largest, int(found.max())), above + int((found > 1).sum()), values + found.size
    return {"largest": largest, "above_one": above, "values": values}


def main() -> None:
    """Measure and print, as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        there = sorted(given.folder.glob("*.jpg"))[: given.images] if given.folder else noise(Path(name), given.images)
        found, differs = measure(there), difference(there)
    print(f"{len(there)} images\n{'':13}{'ms an image':>12}{'speed':>8}")
    for way, milliseconds in found.items():
        print(f"{way:13}{milliseconds:12.2f}{found['torchvision'] / milliseconds:7.2f}x")
    print(
        f"fast beside Pillow: {differs['above_one']} of {differs['values']:,} values by more than 1, largest {differs['largest']}"
    )
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"images": len(there), **found, "difference": differs, **machine}))


if __name__ == "__main__":
    main()
