"""Measures `rlip predict`: images a second, and peak memory by number of images: `python -m benchmarks.prediction`.

speed   RLIPv2-ParSeDA with R50 and random weights on photographs' size, 800×1333, with 80 objects and 117 predicates, in fp32
        and in bf16: seconds an image, reading and writing included.
memory  a small network over 100 and over 10,000 images, which share 100 files.

Each measurement runs in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from benchmarks.harness import Row, in_own_process, parser, peak_mib, run
from benchmarks.photos import write_noise
from models.config import NetworkConfig, TextConfig
from models.rlip import RLIP
from pipeline.data.images.opening import read_ahead, read_image
from pipeline.evaluation.detections.table import DetectionsWriter
from pipeline.evaluation.predictor import Names, Predictor
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.vocabulary import make_tokenizer

NAMES = Names(tuple(f"object {n}" for n in range(80)), tuple(f"predicate {n}" for n in range(117)))
FILES, LONGEST = 100, 1333


def network(small: bool, folder: Path, architecture: Literal["parseda", "parsed"] = "parseda") -> RLIP:
    config = NetworkConfig(architecture=architecture)
    if small:
        text = TextConfig(hidden=32, layers=1, heads=2, feedforward=32, vocabulary=400, max_positions=40)
        config = replace(
            config, backbone="resnet18", width=32, heads=2, feedforward=32, pairs=20, fusion_width=32,
            encoder_layers=1, decoder_layers=1, text=text,
        )  # fmt: skip
    make_tokenizer((*NAMES.objects, *NAMES.predicates), 400, folder)
    torch.manual_seed(0)
    return RLIP(config, folder).eval()


def predict(small: bool, bf16: bool, images: int, threads: int) -> tuple[float, int]:
    """Predicts and writes. Returns seconds an image and the process's peak in MiB."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    width, height = (96, 64) if small else (LONGEST, 800)
    with tempfile.TemporaryDirectory() as name, torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        folder = Path(name)
        files = write_noise(folder / "images", min(FILES, images), width, height)
        predictor = Predictor(network(small, folder), NAMES, 96 if small else LONGEST)

        def stream() -> Iterator[Image.Image]:
            for image in read_ahead((files[number % len(files)] for number in range(images)), read_image):
                assert isinstance(image, Image.Image)
                yield image

        began = time.perf_counter()
        with DetectionsWriter(folder / "found.parquet") as writer:
            for number, found in enumerate(predictor.predict(stream(), 1)):
                row = {"image_id": number, "uri": f"{number}.jpg", "width": width, "height": height}
                writer.write(row | found.row(NAMES))
        return (time.perf_counter() - began) / images, peak_mib()


def measure(given: Namespace) -> Iterator[Row]:
    tasks = [(False, bf16, given.images) for bf16 in (False, True)] + [(True, False, count) for count in given.counts]
    for small, bf16, images in tasks:
        seconds, peak = in_own_process(predict, small, bf16, images, given.threads)
        name = f"{'small' if small else 'R50, 800×1333'}, {'bf16' if bf16 else 'fp32'}, {images:,} images"
        yield Row(f"{name}: time", "s/image", seconds)
        yield Row(f"{name}: peak memory", "MiB", peak)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=8, help="number of images for the speed")
    options.add_argument(
        "--counts", type=int, nargs="+", default=(100, 10_000), help="numbers of images for the memory"
    )
    options.add_argument("--threads", type=int, default=2)
    run(options, measure)
