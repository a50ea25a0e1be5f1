"""Measures the peak memory of `rlip predict`, each in a process of its own: `python -m benchmarks.prediction`.

network  RLIPv2-ParSeDA with R50 and random weights on 800×1333 images, 80 objects and 117 predicates, fp32 and bf16
images   a small network over 100 and over 1,000 images, which share 100 files
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from benchmarks.harness import Row, in_own_process, parser, peak_mib, run, write_noise
from models.config import NetworkConfig
from models.rlip import RLIP
from models.weights import save
from pipeline.cli.predict import predict
from pipeline.evaluation.predictor import Names
from pipeline.run.device_networks import small_config
from pipeline.training.config import MODEL
from pipeline.training.vocabulary import make_tokenizer

NAMES = Names(tuple(f"object {n}" for n in range(80)), tuple(f"predicate {n}" for n in range(117)))
FILES = 100


def network(small: bool, folder: Path, architecture: Literal["parseda", "parsed"] = "parseda") -> RLIP:
    """Builds a network with random weights, whose tokenizer is written to `folder`."""
    config = small_config(architecture=architecture) if small else NetworkConfig(architecture=architecture)
    make_tokenizer((*NAMES.objects, *NAMES.predicates), 400, folder)
    torch.manual_seed(0)
    return RLIP(config, folder).eval()


def write_network(small: bool, folder: Path) -> None:
    save(network(small, folder), folder / MODEL)


def peak(small: bool, bf16: bool, images: int, folder: Path) -> int:
    """Runs the command in this process. Returns its peak in MiB."""
    torch.set_num_threads(2)
    size, height, width = (96, 64, 96) if small else (1333, 800, 1333)
    files = write_noise(folder / "images", min(FILES, images), width, height)
    names = {"objects": ",".join(NAMES.objects), "predicates": ",".join(NAMES.predicates)}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        many = [files[number % len(files)] for number in range(images)]
        predict(folder, many, folder / "found.parquet", **names, image_size=size, as_json=True)
    return peak_mib()


def measure(given: Namespace) -> Iterator[Row]:
    for small, bf16, images in ((False, False, 8), (False, True, 8), (True, False, 100), (True, False, 1000)):
        if given.small and not small:
            continue
        with tempfile.TemporaryDirectory() as folder:
            in_own_process(write_network, small, Path(folder))
            name = f"{'small' if small else 'R50, 800×1333'}, {'bf16' if bf16 else 'fp32'}, {images:,} images"
            yield Row(name, "MiB", in_own_process(peak, small, bf16, images, Path(folder)))


if __name__ == "__main__":
    run(parser(__doc__, small=True), measure)
