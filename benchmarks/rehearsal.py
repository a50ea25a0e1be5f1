"""Rehearses the whole chain at scale: `python -m benchmarks.rehearsal` (`--images 1820000`: Objects365's size, hours).

Only networks are replaced, inside the same stage classes: the captioner by a stand-in behind LAVIS's pipe
(`rehearsal_captioner.py`), the tagger by the method "prior". The pre-training takes two steps with a tiny network,
since only what comes before and between steps depends on the number of images. For each size:

first    a run with Prefect in a new store
again    the same run, which computes nothing
one %    one per cent more images, and the run again
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks import rehearsal_captioner
from benchmarks.harness import Row, parser, peak_mib, run, write_noise
from scenes.names import COCO_CATEGORIES
from tests.small_set import LONG_TRAINING

WIDTH, HEIGHT = 96, 64
LINKS = 20_000
"""Names of each JPEG at most, since a file system limits them. Each is still opened, decoded and hashed on its own."""
PATCH = 35_000
"""Images of a folder, about as many as in Objects365's archives."""
BOXES = 13.7
"""Boxes of an image in the mean: 25 million on 1,820,000 images."""
BLOCK = 1000
"""Images that are drawn together, so that a larger set begins with the same images."""
_ROOT = Path(__file__).resolve().parents[1]
_RECIPE = """
name = "rehearsal"
store = "{folder}/store"
reports = "{folder}/reports"
[data]
root = "{folder}/data"
partition_size = 1000
label = ["objects"]
[[data.sources]]
name = "objects"
format = "objects365"
images = "images"
annotations = "annotations.json"
[caption]
captioner = "lavis"
model = "{folder}/captioner"
lavis_python = "{folder}/captioner/python"
draws = 2
[tag]
method = "prior"
weights = "{root}/scenes/weights/tagger"
[shard]
threshold = 0.05
[run]
blocks = 256
workers = 2
"""


def write_world(folder: Path, images: int) -> Path:
    """Writes images, annotations, the captioner's files and a recipe into a new folder. Returns the recipe."""
    add_images(folder, 0, images)
    model, recipe = folder / "captioner", folder / "rehearsal.toml"
    model.mkdir()
    torch.save({"model": {"nothing": torch.zeros(1)}}, model / "captioner.pth")
    (model / "vocab.txt").write_text("\n".join(COCO_CATEGORIES))
    (model / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{rehearsal_captioner.__file__}" "$3"\n')
    (model / "python").chmod(0o755)
    training = LONG_TRAINING.replace("steps = 100000", "steps = 2\nprocesses = 1").replace('"none"', '"pseudo"')
    recipe.write_text(_RECIPE.format(folder=folder, root=_ROOT) + training)
    return recipe


def add_images(folder: Path, first: int, end: int) -> None:
    """Writes the images `first` to `end`, and annotations of all images up to `end`."""
    originals = write_noise(folder / "originals" / str(first), -(-(end - first) // LINKS), WIDTH, HEIGHT)
    for number in range(first, end):
        path = folder / "data" / "images" / _name(number)
        if number % PATCH == 0 or number == first:
            path.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals[(number - first) // LINKS], path)
    with (folder / "data" / "annotations.json").open("w", 2**20) as file:
        file.write('{"images": [')
        for number in range(end):
            named = f'"id": {number + 1}, "file_name": "images/v2/{_name(number)}", "license": 5, "url": ""'
            file.write(f'{", " if number else ""}{{"height": {HEIGHT}, "width": {WIDTH}, {named}}}')
        file.write('], "annotations": [')
        for count, line in enumerate(_boxes(end)):
            file.write(f"{', ' if count else ''}{line}")
        names = [{"id": number, "name": name} for number, name in enumerate(COCO_CATEGORIES, 1)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def _name(number: int) -> str:
    return f"patch{number // PATCH}/objects365_v2_{number + 1:08}.jpg"


def _boxes(images: int) -> Iterator[str]:
    shares = np.cumsum(1 / np.arange(1, len(COCO_CATEGORIES) + 1))
    for start in range(0, images, BLOCK):
        generator = np.random.default_rng(start)
        counts = 1 + generator.poisson(BOXES - 1, BLOCK)
        number = int(counts.sum())
        w, h = generator.uniform(4, 40, number), generator.uniform(4, 40, number)
        x, y = generator.random(number) * (WIDTH - w), generator.random(number) * (HEIGHT - h)
        of = 1 + np.searchsorted(shares, generator.random(number) * shares[-1])
        sides = np.stack([x, y, w, h], 1).round(2).tolist()
        on = (start + np.repeat(np.arange(BLOCK), counts)).tolist()
        for row, (box, image, category) in enumerate(zip(sides, on, of.tolist(), strict=True)):
            if image < images:
                ids = f'"id": {image * 1000 + row}, "image_id": {image + 1}, "category_id": {category}'
                yield f'{{{ids}, "bbox": {box}, "iscrowd": 0, "isfake": 0, "isreflected": 0}}'


DEFAULT = (18_200, 36_400)
LOOK_EVERY = 0.25
"""Seconds between two looks. A peak is the kernel's own, so only what a process takes after the last look is missed."""


def largest_peak(pid: int) -> int:
    """Returns the highest resident memory in MiB of one process, the given one or a descendant, once that ended."""
    root, highest = psutil.Process(pid), 0
    with suppress(psutil.NoSuchProcess):
        while root.status() != psutil.STATUS_ZOMBIE:
            for each in (root, *root.children(recursive=True)):
                highest = max(highest, peak_mib(each.pid))
            time.sleep(LOOK_EVERY)
    return highest


def run_measured(recipe: Path, images: int, name: str) -> Iterator[Row]:
    """Runs the recipe, and yields its time, what each step computed, and the largest process.

    Raises CalledProcessError if the run fails.
    """
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--json"]
    before, began = os.times(), time.monotonic()
    with ThreadPoolExecutor(1) as pool, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = pool.submit(largest_peak, process.pid)
        assert process.stdout is not None
        lines = list(process.stdout)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds, after = time.monotonic() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    yield Row(name, "s", seconds, note=f"{cpu:.1f} CPU-s, {1000 * cpu / images:.2f} ms an image")
    for step in json.loads(lines[-1])["stages"]:  # the last line is the run's outcome
        due = step["partitions"] - (step["cached"] or 0)
        yield Row(f"{name}: {step['step']}", note=f"{due:,} of {step['partitions']:,} partitions computed")
    yield Row(f"{name}: largest process", "MiB", peak.result())


def rehearse(folder: Path, images: int) -> Iterator[Row]:
    size, more = f"{images:,} images", -(-images // 100)
    recipe = write_world(folder, images)
    yield from run_measured(recipe, images, f"{size} / first")
    yield from run_measured(recipe, images, f"{size} / again")
    add_images(folder, images, images + more)
    yield from run_measured(recipe, images, f"{size} / {more:,} more")
    sizes = (path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    yield Row(f"{size} / store", "MB", sum(sizes) / 1e6)


def measure(given: Namespace) -> Iterator[Row]:
    for images in given.images:
        folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=given.folder))  # stays for a look if something fails
        yield from rehearse(folder, images)
        shutil.rmtree(folder)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--images", type=int, nargs="*", default=DEFAULT, help="sizes; Objects365 has 1,820,000")
    options.add_argument("--folder", type=Path, help="parent of the work folder; 100,000 images take 1 GB there")
    run(options, measure)
