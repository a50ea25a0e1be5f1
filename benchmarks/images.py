"""Measures the input path of captioning: `python -m benchmarks.images FOLDER` (of JPEGs; noise if none is named).

CPU milliseconds per image, from the file to normalised floats of 384 x 384, on the same files:

torchvision   a bare loop without checks: read_file, decode_jpeg, v2.Resize, v2.normalize
ours          like stage `caption`: `read_resized` (checks limits, reports bad files), then `Pixels`
pillow        Pillow decodes and resizes, then `Pixels`

Also counts how far ours and torchvision's grey levels are from Pillow's, which resizes across, then down.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from benchmarks.harness import Row, best_of, parser, run
from benchmarks.photos import write_noise
from pipeline.captioning.network import CLIP_DEVIATION, CLIP_MEAN, Pixels
from pipeline.data.images.opening import DEFAULT_LIMITS, read_image
from pipeline.data.images.resize import read_resized
from pipeline.runtime.processes import keep_freed_memory

SIDE, ROUNDS = 384, 3
RESIZE = v2.Resize((SIDE, SIDE), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
PIXELS = Pixels(Path("no folder: BLIP's own mean and deviation"), SIDE, torch.device("cpu"), torch.float32)


def by_torchvision(path: Path) -> Tensor:
    """Returns 3 x side x side grey levels."""
    return RESIZE(decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB))


def by_us(path: Path) -> Tensor:
    """Returns 3 x side x side grey levels."""
    return read_resized(path, SIDE, SIDE, DEFAULT_LIMITS)


def by_pillow(path: Path) -> Tensor:
    """Returns 3 x side x side grey levels."""
    image = read_image(path)
    across = image.resize((SIDE, image.height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(across.resize((SIDE, SIDE), Image.Resampling.BICUBIC))).permute(2, 0, 1)


def bare(path: Path) -> Tensor:
    """Returns normalised floats, by torchvision alone."""
    scaled = transforms.to_dtype(by_torchvision(path), scale=True)
    return transforms.normalize(scaled, list(CLIP_MEAN), list(CLIP_DEVIATION), inplace=True)


def from_pillow(paths: list[Path], read: Callable[[Path], Tensor]) -> str:
    """Compares grey levels with Pillow's."""
    apart = torch.stack([(by_pillow(path).int() - read(path).int()).abs() for path in paths])
    return (
        f"{int((apart > 0).sum()):,} of {apart.numel():,} values differ, {int((apart > 1).sum()):,} by more than one "
        f"grey level; largest difference {int(apart.max())}"
    )


def measure(given: Namespace) -> Iterator[Row]:
    """Yields each way's time, beside torchvision's, and the differences."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the engine's workers do
    with tempfile.TemporaryDirectory() as name:
        paths = (
            sorted(given.folder.glob("*.jpg"))[: given.images]
            if given.folder
            else write_noise(Path(name), given.images)
        )
        ways: dict[str, Callable[[], object]] = {
            "torchvision": lambda: [bare(path) for path in paths],
            "ours": lambda: [PIXELS([by_us(path)]) for path in paths],
            "pillow": lambda: [PIXELS([by_pillow(path).float()]) for path in paths],
        }
        best = {way: 1000 * seconds / len(paths) for way, seconds in best_of(ways, ROUNDS).items()}
        for way, milliseconds in best.items():
            yield Row(f"{way}, beside a bare torchvision loop", "CPU-ms/image", milliseconds, best["torchvision"])
        yield Row("ours against Pillow", note=from_pillow(paths, by_us))
        yield Row("torchvision against Pillow", note=from_pillow(paths, by_torchvision))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("folder", type=Path, nargs="?")
    options.add_argument("--images", type=int, default=100)
    run(options, measure)
