"""Measures reading annotations: `python -m benchmarks.datasets` (`--full`: 1.7 million images, 25 million boxes).

Generates a file in Objects365's layout with annotations in random order, and parses it into an index once, in a process of its
own.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, cpu_seconds, in_own_process, parser, peak_mib, run
from pipeline.data.datasets.record_index import open_index
from pipeline.data.datasets.source import DataSource

SIZES = {False: (34_000, 500_000), True: (1_700_000, 25_000_000)}


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


def index(folder: Path) -> tuple[float, int, int]:
    """Parses the file into its index in this process. Returns CPU-seconds, peak memory in MiB, and bytes on disk."""
    annotations, made = folder / "annotations.json", folder / "indexes"
    source = DataSource(name="generated", format="objects365", images=folder / "images", annotations=annotations)
    seconds = cpu_seconds(lambda: open_index(source, made))
    return seconds, peak_mib(), sum(path.stat().st_size for path in made.rglob("*"))


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the time and memory of indexing."""
    images, boxes = SIZES[given.full]
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        (folder / "images" / "patch0").mkdir(parents=True)
        # A dataset is refused if none of its images exists.
        (folder / "images" / "patch0" / "objects365_v2_00000001.jpg").touch()
        generate(folder / "annotations.json", images, boxes)
        size = (folder / "annotations.json").stat().st_size
        yield Row("JSON", "GiB", size / 2**30, note=f"{images:,} images, {boxes:,} boxes")
        seconds, peak, kept = in_own_process(index, folder)
        yield Row("index: time", "CPU-s", seconds)
        yield Row("index: peak memory", "MiB", peak)
        yield Row("index: on disk", "MB", kept / 1e6)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="the size of Objects365: 10 GB of disk, several minutes")
    options.add_argument("--folder", type=Path, help="parent of the work folder, on the disk to measure")
    run(options, measure)
