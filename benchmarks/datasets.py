"""Measures reading annotations: `python -m benchmarks.datasets` (`--full`: 1.7 million images, 25 million boxes).

Generates a file in Objects365's layout with annotations in random order. Runs each part in a separate process:

index    parses the file into an index, once
plan     partitions the dataset from that index (only one of its images exists)
again    repeats `plan` without any change
stage    reads the records of one partition in the middle, like a worker of `ingest`
json     loads the whole file with Python's `json`, like the authors' scripts; not run with --full
"""

from __future__ import annotations

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import Row, cpu_seconds, in_own_process, parser, peak_mib, run
from pipeline.data.datasets.record_index import open_index
from pipeline.data.datasets.source import DataSource
from pipeline.data.partitioning import partition_dataset
from storage.local_store import LocalStore

SIZES = {False: (34_000, 500_000), True: (1_700_000, 25_000_000)}
PARTITION = 1000


def generate(path: Path, images: int, boxes: int) -> None:
    """Writes an annotation file of `boxes` boxes on `images` images, in blocks."""
    with path.open("w", 2**20) as file:
        file.write('{"images": [')
        for number in range(1, images + 1):
            name = f"images/v2/patch{number // 35_000}/objects365_v2_{number:08}.jpg"
            entry = f'{{"height": 512, "id": {number}, "license": 5, "width": 769, "file_name": "{name}", "url": ""}}'
            file.write(entry if number == 1 else f", {entry}")
        file.write('], "annotations": [')
        file.writelines(_blocks(images, boxes))
        names = [{"id": number, "name": f"Thing {number}"} for number in range(1, 366)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def _blocks(images: int, boxes: int) -> Iterator[str]:
    draws = np.random.default_rng(0)
    for start in range(0, boxes, 100_000):
        size = min(100_000, boxes - start)
        sides, on, of = (
            draws.uniform(1, 400, (size, 4)),
            draws.integers(1, images + 1, size),
            draws.integers(1, 366, size),
        )
        lines = [
            f'{{"id": {start + row}, "iscrowd": 0, "isfake": 0, "area": {x * y!r}, "isreflected": 0, '
            f'"bbox": [{x!r}, {y!r}, {w!r}, {h!r}], "image_id": {image}, "category_id": {category}}}'
            for row, ((x, y, w, h), image, category) in enumerate(
                zip(sides.tolist(), on.tolist(), of.tolist(), strict=True)
            )
        ]
        yield (", " if start else "") + ", ".join(lines)


def source_in(folder: Path) -> DataSource:
    """Returns the generated set, of which only the first image exists."""
    annotations = folder / "annotations.json"
    return DataSource(name="generated", format="objects365", images=folder / "images", annotations=annotations)


def index(folder: Path) -> str:
    """Parses the file and stores its index."""
    made = open_index(source_in(folder), folder / "store" / "indexes")
    return f"{sum(path.stat().st_size for path in made.folder.iterdir()) / 1e6:,.0f} MB on disk"


def plan(folder: Path) -> str:
    """Partitions the set."""
    store = LocalStore(folder / "store")
    found = list(partition_dataset(source_in(folder), PARTITION, folder / "store" / "indexes", "bytes", store))
    return f"{len(found):,} partitions"


def stage(folder: Path) -> str:
    """Reads one partition in the middle."""
    opened = open_index(source_in(folder), folder / "store" / "indexes")
    middle = len(opened.ids) // 2
    began = time.perf_counter()
    records = list(opened.records(opened.ids[middle : middle + PARTITION].tolist()))
    return f"{len(records):,} records in {(time.perf_counter() - began) * 1000:.1f} ms"


def whole(folder: Path) -> str:
    """Loads the file as Python objects."""
    return f"{len(json.loads((folder / 'annotations.json').read_bytes())['annotations']):,} boxes"


PARTS: dict[str, Callable[[Path], str]] = {"index": index, "plan": plan, "again": plan, "stage": stage, "json": whole}


def measure_part(part: str, folder: Path) -> tuple[float, int, int, str]:
    """Runs a part in this process. Returns CPU-seconds, MiB before and at the peak, and what it found."""
    before, notes = peak_mib(), []
    seconds = cpu_seconds(lambda: notes.append(PARTS[part](folder)))
    return seconds, before, peak_mib(), notes[0]


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the time and memory of each part."""
    images, boxes = SIZES[given.full]
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        (folder / "images" / "patch0").mkdir(parents=True)
        Image.new("RGB", (769, 512)).save(folder / "images" / "patch0" / "objects365_v2_00000001.jpg")
        generate(folder / "annotations.json", images, boxes)
        size = (folder / "annotations.json").stat().st_size
        yield Row("JSON", "GiB", size / 2**30, note=f"{images:,} images, {boxes:,} boxes")
        for part in PARTS:
            if given.full and part == "json":
                continue
            seconds, before, peak, note = in_own_process(measure_part, part, folder)
            yield Row(f"{part}: time", "CPU-s", seconds, note=note)
            yield Row(f"{part}: peak memory", "MiB", peak, note=f"{before} before")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="the size of Objects365: 10 GB of disk, several minutes")
    options.add_argument("--folder", type=Path, help="parent of the work folder, on the disk to measure")
    run(options, measure)
