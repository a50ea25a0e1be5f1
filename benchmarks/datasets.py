"""Measures reading annotations: `python benchmarks/datasets.py` (`--full`: 1.7 million images, 25 million boxes).

Generates a file in Objects365's layout with annotations in random order. Runs each part in a separate process:

index    parses the file into an index, once
plan     partitions the dataset from that index (only one of its images exists)
again    repeats `plan` without any change
stage    reads the records of one partition in the middle, like a worker of `ingest`
json     loads the whole file with Python's `json`, like the authors' scripts; not run with --full
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.datasets.record_index import open_index
from pipeline.data.datasets.source import DataSource
from pipeline.data.partitioning import partition_dataset
from storage.local_store import LocalStore

FULL = (1_700_000, 25_000_000)
DEFAULT = (34_000, 500_000)
PARTITION = 1000


def generate(path: Path, images: int, boxes: int) -> None:
    """Writes an annotation file of `boxes` boxes on `images` images, in blocks."""
    generator = np.random.default_rng(0)
    with path.open("w", 2**20) as file:
        file.write('{"images": [')
        for number in range(1, images + 1):
            name = f"images/v2/patch{number // 35_000}/objects365_v2_{number:08}.jpg"
            entry = f'{{"height": 512, "id": {number}, "license": 5, "width": 769, "file_name": "{name}", "url": ""}}'
            file.write(entry if number == 1 else f", {entry}")
        file.write('], "annotations": [')
        for block in _blocks(generator, images, boxes):
            file.write(block)
        names = [{"id": number, "name": f"Thing {number}"} for number in range(1, 366)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def _blocks(generator: np.random.Generator, images: int, boxes: int) -> Iterator[str]:
    for start in range(0, boxes, 100_000):
        size = min(100_000, boxes - start)
        numbers = generator.uniform(1, 400, (size, 4))
        on = generator.integers(1, images + 1, size)
        of = generator.integers(1, 366, size)
        lines = [
            f'{{"id": {start + row}, "iscrowd": 0, "isfake": 0, "area": {x * y!r}, "isreflected": 0, '
            f'"bbox": [{x!r}, {y!r}, {w!r}, {h!r}], "image_id": {image}, "category_id": {category}}}'
            for row, ((x, y, w, h), image, category) in enumerate(
                zip(numbers.tolist(), on.tolist(), of.tolist(), strict=True)
            )
        ]
        yield (", " if start else "") + ", ".join(lines)


def source_in(folder: Path) -> DataSource:
    """Returns the generated set, of which only the first image exists."""
    return DataSource(
        name="generated", format="objects365", images=folder / "images", annotations=folder / "annotations.json"
    )


def index(folder: Path) -> dict[str, Any]:
    """Parses the file and stores its index."""
    made = open_index(source_in(folder), folder / "store" / "indexes")
    return {"bytes_kept": sum(path.stat().st_size for path in made.folder.iterdir())}


def plan(folder: Path) -> dict[str, Any]:
    """Partitions the set."""
    indexes = folder / "store" / "indexes"
    found = list(partition_dataset(source_in(folder), PARTITION, indexes, "bytes", LocalStore(folder / "store")))
    return {"partitions": len(found)}


def stage(folder: Path) -> dict[str, Any]:
    """Reads one partition in the middle."""
    opened = open_index(source_in(folder), folder / "store" / "indexes")
    middle = len(opened.ids) // 2
    began = time.perf_counter()
    records = list(opened.records(opened.ids[middle : middle + PARTITION].tolist()))
    return {"read_ms": round((time.perf_counter() - began) * 1000, 1), "boxes": sum(len(r.boxes) for r in records)}


def whole(folder: Path) -> dict[str, Any]:
    """Loads the file as Python objects."""
    content = json.loads((folder / "annotations.json").read_bytes())
    return {"objects": len(content["annotations"])}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "index": index, "plan": plan, "again": plan, "stage": stage, "json": whole,
}  # fmt: skip


def measure(part: str, folder: Path) -> dict[str, Any]:
    """Runs a part in this process. Returns its time and memory."""
    before, base = time.process_time(), _peak_mib()
    began = time.perf_counter()
    found = PARTS[part](folder)
    return {
        "seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(time.process_time() - before, 2),
        "peak_mib": _peak_mib(), "start_mib": base, **found,
    }  # fmt: skip


def _peak_mib() -> int:
    """Returns this process's peak memory since its program started (getrusage would include the parent's)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def main() -> None:
    """Generates the file, measures, and prints a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the size of Objects365: 10 GB of disk, several minutes")
    parser.add_argument("--folder", type=Path, help="parent of the work folder, on the disk to measure")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return
    images, boxes = FULL if given.full else DEFAULT
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        (folder / "images" / "patch0").mkdir(parents=True)
        Image.new("RGB", (769, 512)).save(folder / "images" / "patch0" / "objects365_v2_00000001.jpg")
        generate(folder / "annotations.json", images, boxes)
        size = (folder / "annotations.json").stat().st_size
        print(f"{images:,} images, {boxes:,} boxes, {size / 2**30:.2f} GiB of JSON")
        found = {part: _apart(part, folder) for part in PARTS if not (given.full and part == "json")}
    print(f"{'':8}{'seconds':>9}{'CPU':>9}{'peak MiB':>10}{'bytes/box':>13}")
    for part, row in found.items():
        grown = (row["peak_mib"] - row["start_mib"]) * 2**20 / boxes
        print(f"{part:8}{row['seconds']:9.2f}{row['cpu_seconds']:9.2f}{row['peak_mib']:10,}{grown:13,.0f}")
    print(
        f"records of a partition: {found['stage']['read_ms']} ms; index: {found['index']['bytes_kept'] / boxes:.0f} bytes/box"
    )
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"images": images, "boxes": boxes, "json_bytes": size, **found, **machine}))


def _apart(part: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__)), "--measure", part, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
