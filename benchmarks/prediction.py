"""Measures `rlip predict`: images a second, and peak memory by number of images: `python -m benchmarks.prediction`.

speed   RLIPv2-ParSeDA with R50 and random weights on photographs' size, 800×1333, with 80 objects and 117 predicates, in fp32
        and in bf16: seconds an image, reading and writing included.
memory  a small network over 100 and over 10,000 images, which share 100 files.

Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from models.config import NetworkConfig, TextConfig
from models.rlip import RLIP
from pipeline.data.images.opening import read_image
from pipeline.data.images.prefetch import read_ahead
from pipeline.evaluation.detections.table import DetectionsWriter
from pipeline.evaluation.predictor import Names, Predictor
from pipeline.runtime.processes import keep_freed_memory
from pipeline.training.vocabulary import make_tokenizer

NAMES = Names(tuple(f"object {n}" for n in range(80)), tuple(f"predicate {n}" for n in range(117)))
FILES = 100
COUNTS = (100, 10_000)
LONGEST = 1333


def network(small: bool, folder: Path) -> RLIP:
    """Builds a network with random weights, and its tokenizer in `folder`."""
    config = NetworkConfig()
    if small:
        text = TextConfig(hidden=32, layers=1, heads=2, feedforward=32, vocabulary=400, max_positions=40)
        config = replace(
            config, backbone="resnet18", width=32, heads=2, feedforward=32, pairs=20, fusion_width=32,
            encoder_layers=1, decoder_layers=1, text=text,
        )  # fmt: skip
    make_tokenizer((*NAMES.objects, *NAMES.predicates), 400, folder)
    torch.manual_seed(0)
    return RLIP(config, folder).eval()


def photographs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Writes noise as JPEG files."""
    draws = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        Image.fromarray(draws.integers(0, 255, (height, width, 3), np.uint8)).save(path, quality=60)
    return paths


def measure(small: bool, bf16: bool, images: int, threads: int) -> dict[str, Any]:
    """Predicts and writes. Returns seconds an image and the process's peak in MiB."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = (96, 64) if small else (LONGEST, 800)
        files = photographs(folder, min(FILES, images), *size)
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            predictor = Predictor(network(small, folder), NAMES, 96 if small else LONGEST)

            def stream() -> Iterator[Image.Image]:
                paths = (files[number % len(files)] for number in range(images))
                for image in read_ahead(paths, read_image):
                    assert isinstance(image, Image.Image)
                    yield image

            began = time.perf_counter()
            with DetectionsWriter(folder / "found.parquet") as writer:
                for number, found in enumerate(predictor.predict(stream(), 1)):
                    row = {"image_id": number, "uri": f"{number}.jpg", "width": size[0], "height": size[1]}
                    writer.write(row | found.row(NAMES))
        seconds = (time.perf_counter() - began) / images
    return {
        "network": "small" if small else "R50 ParSeDA, 800×1333",
        "precision": "bf16" if bf16 else "fp32",
        "images": images,
        "seconds_per_image": round(seconds, 4),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="number of images for the speed")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of images for the memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    tasks = [(False, bf16, given.images, given.threads) for bf16 in (False, True)]
    tasks += [(True, False, count, given.threads) for count in given.counts]
    rows = []
    for task in tasks:
        # A new process for each, since the peak of a process never falls.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, task)
        rows.append(row)
        print(
            "{network:24}{precision:6}{images:8,} images{seconds_per_image:9.3f} s each{peak_mib:8,} MiB".format(**row),
            flush=True,
        )
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
