"""Compares onnxruntime on exported networks with PyTorch on their weights: `python -m benchmarks.onnx_export`.

R50 ParSeDA and ParSeD with random weights, one image, 80 objects and 117 predicates. Exporting takes minutes.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.harness import Row, best_of, parser, run
from benchmarks.prediction import NAMES, network
from models.config import NO_OBJECTS
from models.onnx_export import OUTPUTS, export_onnx


def measure(given: Namespace) -> Iterator[Row]:
    torch.set_num_threads(given.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = given.threads, 3
    image = torch.randn(1, 3, given.height, given.width)
    for architecture in ("parseda", "parsed"):
        with tempfile.TemporaryDirectory() as name, torch.no_grad():
            path = Path(name) / "model.onnx"
            made = network(given.small, Path(name), architecture)
            texts = made.encode_texts([*NAMES.objects, NO_OBJECTS]), made.encode_texts(NAMES.predicates)
            export_onnx(made, NAMES.objects, NAMES.predicates, 1333, path)
            session = onnxruntime.InferenceSession(path, options)
            ways = {
                "onnx": lambda s=session: s.run(list(OUTPUTS), {"image": image.numpy()}),
                "torch": lambda m=made, t=texts: m.predict(image, None, *t),
            }
            expected = ways["torch"]()
            apart = [
                np.abs(getattr(expected, name).numpy() - values).max()
                for name, values in zip(OUTPUTS, ways["onnx"](), strict=True)
            ]
            yield Row(f"{architecture}: largest difference of an output", "", float(max(apart)))
            taken = best_of(ways, given.rounds)
            yield Row(f"{architecture}: an image, {given.threads} threads", "CPU-s", taken["onnx"], taken["torch"])


if __name__ == "__main__":
    run(parser(__doc__, small=True, height=512, width=640, threads=2, rounds=7), measure)
