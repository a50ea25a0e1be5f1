"""Measures shards and streams beside other libraries: `python -m benchmarks.shards` (`--help`), about five minutes.

writing     our shards with their index, beside copying the same bytes with sha256, and webdataset.ShardWriter
reading     bytes of images and labels; ours compares each with its checksum, the others with nothing or one of their own
decoding    images decoded to bytes of red, green and blue, beside a bare loop over bytes in memory
map, resume a map of 2,000,000 samples in 2,000 tars, each figure from a fresh process

All read the same JPEGs, which the page cache holds. Speeds are per CPU-second of all threads, in the best of several
turns that the libraries take one after the other.
"""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.harness import Row, parser, run
from benchmarks.photos import write_photos
from benchmarks.streaming.large_map import measure_large_map
from benchmarks.streaming.reading import Reading
from benchmarks.streaming.writing import compare_writing
from pipeline.runtime.processes import keep_freed_memory

PARTS = ("writing", "reading", "decoding", "map")


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the rows of all parts that were asked for."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the engine's workers do; it speeds up the peers too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_photos(given.shared / "data/coco/sample2017", folder / "images", given.megabytes)
        yield Row("images", "", len(photos), note=f"{photos.megabytes:.0f} MB: {photos.origin}")
        if "writing" in given.parts:
            yield from compare_writing(photos, folder / "writing", given.rounds)
        if "reading" in given.parts:
            yield from Reading(photos, folder / "reading", given.rounds).plain()
        if "decoding" in given.parts:
            # A few per cent count here, so that it needs more turns.
            few = photos.first(given.decoded)
            yield from Reading(few, folder / "decoding", 3 * given.rounds).decoded()
        if "map" in given.parts:
            yield from measure_large_map(photos, folder / "large", given.tars, given.rounds)


if __name__ == "__main__":
    options = parser(__doc__)
    shared = Path(os.environ.get("RLIP_SHARED", "../shared"))
    options.add_argument("--shared", type=Path, default=shared, help="folder with data/coco; noise without it")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--megabytes", type=float, default=200, help="size of all images")
    options.add_argument("--decoded", type=int, default=188, help="number of images to decode")
    options.add_argument("--tars", type=int, default=2000, help="tars of 1,000 samples in the large map")
    options.add_argument("--rounds", type=int, default=5, help="number of turns; the best of each counts")
    run(options, measure)
