"""Reads the same images with MosaicML streaming, in its own environment: `python mosaic.py FOLDER WORK ROUNDS`.

FOLDER holds JPEGs, each with its labels in a JSON file of the same name. This script imports nothing of this project, since
streaming's dependencies don't fit those of this project. It prints CPU-seconds per image, with and without decoding.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from streaming import MDSWriter, StreamingDataset

CHUNK_BYTES = 2**26


def main(folder: Path, work: Path, rounds: int) -> None:
    """Writes the images as MDS, reads them, and prints the figures as JSON."""
    paths = sorted(folder.glob("*.jpg"))
    best = {"read": float("inf"), "decode": float("inf")}
    datasets = {"read": dataset(paths, work / "bytes", "bytes"), "decode": dataset(paths, work / "images", "jpeg")}
    for _ in range(rounds):
        for name, samples in datasets.items():
            began = time.process_time()
            for sample in samples:
                if name == "decode":
                    np.array(sample["jpg"])
                    json.loads(sample["json"])
            best[name] = min(best[name], (time.process_time() - began) / len(paths))
    print(json.dumps(best))


def dataset(paths: list[Path], folder: Path, encoding: str) -> StreamingDataset:
    """Writes images and labels, and returns their dataset."""
    columns = {"jpg": encoding, "json": "bytes"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for path in paths:
            image = path.read_bytes() if encoding == "bytes" else Image.open(path)
            writer.write({"jpg": image, "json": path.with_suffix(".json").read_bytes()})
    return StreamingDataset(local=str(folder), shuffle=False, batch_size=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
