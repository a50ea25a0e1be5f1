"""Measures peak memory of captioning by number of images: `python -m benchmarks.caption_memory`.

Runs `rlip run --until caption` with one worker on 1,000, 10,000 and 100,000 images, each in separate processes. The
model is a BLIP of one layer and 32 pixels with random weights that draws ten captions of eight tokens per image, in
partitions of 1,000. The images share 1,000 JPEG files, decoded again for every image. The worker captions, and the main
process plans and records.
"""

from __future__ import annotations

import json
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from benchmarks.captioning import encoder_size, write_blip
from benchmarks.harness import Row, parser, run
from benchmarks.photos import write_noise
from benchmarks.processes import run_measured

FILES, SIDE = 1_000, 32
RECIPE = """
name = "memory"
reports = "{folder}/reports"
store = "{folder}/store {images}"
[run]
workers = 1
[data]
root = "{folder}"
partition_size = 1000
label = ["made"]
tagger = ["made"]
[[data.sources]]
name = "made"
format = "coco"
images = "images"
annotations = "{images}.json"
[caption]
model = "{folder}/blip"
max_length = 8
"""


def write_annotations(path: Path, images: int) -> None:
    """Writes annotations with one box per image, cycling through the image files."""
    listed = [{"id": n, "file_name": f"{n % FILES:04d}.jpg", "width": SIDE, "height": SIDE} for n in range(images)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 20, 20]} for n in range(images)]
    categories = [{"id": 1, "name": "thing"}]
    path.write_text(json.dumps({"images": listed, "annotations": boxes, "categories": categories}))


def measure(given: Namespace) -> Iterator[Row]:
    """Yields the peak memory of each kind of process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = encoder_size(32, 1, 2)
        write_blip(folder / "blip", 64, size | {"image_size": SIDE, "patch_size": 32}, size)
        write_noise(folder / "images", FILES, SIDE, SIDE)
        for images in given.images:
            write_annotations(folder / f"{images}.json", images)
            recipe = folder / f"{images}.toml"
            recipe.write_text(RECIPE.format(folder=folder, images=images))
            ran = run_measured("run", str(recipe), "--direct", "--json", "--until", "caption")
            assert ran.steps["caption"]["rows_out"] == images, ran.steps
            yield Row(f"{images:,} images: worker", "MiB", ran.peak_mib["worker, caption"], note=f"{ran.seconds:.1f} s")
            yield Row(f"{images:,} images: main process", "MiB", ran.peak_mib["rlip run"])


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    run(options, measure)
