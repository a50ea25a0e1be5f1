"""Measures shards and streams beside other libraries: `python -m benchmarks.shards` (`--help`), about five minutes.

writing     our shards with their index, beside copying the same bytes with sha256, and webdataset.ShardWriter
reading     bytes of images and labels; ours compares each with its checksum, the others with nothing or one of their own
decoding    images decoded to bytes of red, green and blue, beside a bare loop over bytes in memory
map, resume, memory   a map of 2,000,000 samples in 2,000 tars, each figure from a fresh process
batches     padding and distinct sizes of training batches, beside a random order

All read the same JPEGs, which the page cache holds. Speeds are per CPU-second of all threads, in the best of several
turns that the libraries take one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.labelling import processor
from benchmarks.streaming.large_map import measure_large_map
from benchmarks.streaming.padding import measure_padding
from benchmarks.streaming.photos import write_photos
from benchmarks.streaming.reading import Reading
from benchmarks.streaming.results import HEADER, Row, print_row
from benchmarks.streaming.writing import compare_writing
from pipeline.runtime.processes import keep_freed_memory

LIBRARIES = ("torch", "torchvision", "webdataset", "litdata", "spdl", "grain")


def measure(given: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Yields the rows of all parts that were asked for."""
    coco = given.shared / "data/coco"
    photos = write_photos(coco / "sample2017", folder / "images", given.megabytes)
    print(f"{processor()}, {os.cpu_count()} cores; {len(photos):,} images, {photos.megabytes:.0f} MB: {photos.origin}")
    print(HEADER)
    if "writing" in given.parts:
        yield from compare_writing(photos, folder / "writing", given.rounds)
    if "reading" in given.parts:
        yield from Reading(photos, folder / "reading", given.rounds, given.mosaic).plain()
    if "decoding" in given.parts:
        # A few per cent count here, so that it needs more turns.
        yield from Reading(photos.first(given.decoded), folder / "decoding", 3 * given.rounds, given.mosaic).decoded()
    if "map" in given.parts:
        yield from measure_large_map(photos, folder / "large", given.tars, given.rounds)
    if "batches" in given.parts:
        yield from measure_padding(coco / "annotations/instances_sample2017.json")


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measures, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("writing", "reading", "decoding", "map", "batches")
    shared = Path(os.environ.get("RLIP_SHARED", "../shared"))
    parser.add_argument(
        "--shared", type=Path, default=shared, help="folder with data/coco; synthetic images without it"
    )
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--megabytes", type=float, default=200, help="size of all images")
    parser.add_argument("--decoded", type=int, default=188, help="number of images to decode")
    parser.add_argument("--tars", type=int, default=2000, help="tars of 1,000 samples in the large map")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns; the best of each counts")
    parser.add_argument("--mosaic", type=Path, help="interpreter of an environment that has mosaicml-streaming")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the engine's workers do; it speeds up the peers too
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(given, Path(folder)):
            print_row(row)
            rows.append(row)
    missed = [row.name for row in rows if row.met is False]
    print(f"goals missed: {'; '.join(missed) or 'none'}")
    if given.json:
        machine = {"processor": processor(), "cores": os.cpu_count(), "versions": versions(), "rounds": given.rounds}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({**machine, "rows": [row.figures() for row in rows], "missed": missed}, indent=1)
        )


if __name__ == "__main__":
    main()
