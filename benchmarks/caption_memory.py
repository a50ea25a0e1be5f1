"""Measures peak memory of captioning by number of images: `python -m benchmarks.caption_memory`.

Runs `rlip run --until caption` with one worker on 1,000, 10,000 and 100,000 images, each in separate processes. The
model is a BLIP of one layer and 32 pixels with random weights that draws ten captions of eight tokens per image, in
partitions of 1,000. The images share 1,000 JPEG files, decoded again for every image. Prints the peak memory in MiB of
the worker, which captions, and of the main process, which plans and records.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

SIZES = (1_000, 10_000, 100_000)
FILES = 1_000
SIDE = 32
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


def make_model(folder: Path) -> None:
    """Writes a minimal BLIP captioner."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "picture", "of"]
    words += [f"word{number}" for number in range(64 - len(words))]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    config = BlipConfig(
        vision_config={**sizes, "image_size": SIDE, "patch_size": 32},
        text_config={**sizes, **special, "vocab_size": len(words), "encoder_hidden_size": 32},
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)


def make_images(folder: Path) -> None:
    """Writes JPEGs of noise."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(FILES):
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")


def make_annotations(path: Path, images: int) -> None:
    """Writes annotations with one box per image, cycling through the image files."""
    listed = [{"id": n, "file_name": f"{n % FILES}.jpg", "width": SIDE, "height": SIDE} for n in range(images)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 20, 20]} for n in range(images)]
    categories = [{"id": 1, "name": "thing"}]
    path.write_text(json.dumps({"images": listed, "annotations": boxes, "categories": categories}))


def measure(folder: Path, images: int) -> dict[str, Any]:
    """Runs the pipeline up to its captions. Returns the peak memory of each kind of process, and the seconds."""
    recipe = folder / f"{images}.toml"
    recipe.write_text(RECIPE.format(folder=folder, images=images))
    command = [Path(sys.executable).with_name("rlip"), "run", recipe, "--direct", "--json", "--until", "caption"]
    with (folder / f"{images}.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        peaks = {"main": 0, "worker": 0}
        main = psutil.Process(process.pid)
        try:
            while process.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    found = {main.pid: "main"} | {child.pid: "worker" for child in main.children(recursive=True)}
                    for pid, kind in found.items():
                        peaks[kind] = max(peaks[kind], _peak_mib(pid))
                time.sleep(0.2)
        finally:
            process.terminate()
        seconds = time.monotonic() - began
    output = (folder / f"{images}.log").read_text()
    if process.returncode:
        raise SystemExit(f"rlip run failed on {images} images:\n{output[-3000:]}")
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    (rows,) = [e["rows_out"] for e in events if e.get("event") == "done" and e["step"] == "caption"]
    assert rows == images, f"only {rows} of {images} images have captions"
    return {"images": images, "worker_mib": peaks["worker"], "main_mib": peaks["main"], "seconds": round(seconds, 1)}


def _peak_mib(pid: int) -> int:
    """Returns a process's peak memory so far in MiB; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
    return 0


def main() -> None:
    """Measures, and prints a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=list(SIZES))
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "blip")
        make_images(folder / "images")
        for images in given.images:
            make_annotations(folder / f"{images}.json", images)
            rows.append(measure(folder, images))
            print(json.dumps(rows[-1]), file=sys.stderr)
    print(f"{'images':>9}{'worker MiB':>12}{'main MiB':>10}{'seconds':>9}")
    for row in rows:
        print(f"{row['images']:9,}{row['worker_mib']:12,}{row['main_mib']:10,}{row['seconds']:9.1f}")
    machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    print(json.dumps({"peaks": rows, **machine}))


if __name__ == "__main__":
    main()
