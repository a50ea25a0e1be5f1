"""Rehearses the whole chain at scale: `python -m benchmarks.rehearsal` (`--images 1820000`: the size of Objects365, hours).

Only networks are replaced, inside the same stage classes: the captioner by a stand-in behind LAVIS's pipes that waits
`--seconds` an image (`scale/captioner.py`), the tagger by the method "prior". The pre-training takes two steps with a tiny
network, since only what comes before and between steps depends on the number of images. For each size:

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
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.harness import Row, parser, peak_mib, run
from benchmarks.photos import write_noise
from benchmarks.scale import captioner
from tests.small_set import LONG_TRAINING

CATEGORIES = """
person man woman child dog cat horse cow sheep bird car bus truck train boat bicycle motorcycle airplane bench
chair couch bed table tv laptop phone book clock vase bottle cup bowl fork knife spoon plate apple banana
orange pizza cake hat shirt shoe bag umbrella kite ball bat glove skateboard surfboard snowboard racket tree
flower house window door street sign light fence wall floor grass water sand snow sky
""".split()  # noqa: SIM905
NAME = "rehearsal"
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
name = "{name}"
store = "{folder}/store"
reports = "{folder}/reports"
[data]
root = "{folder}/data"
partition_size = {partition}
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
draws = {draws}
[tag]
method = "prior"
weights = "{root}/scenes/weights/tagger"
[shard]
threshold = 0.05
[run]
blocks = 256
workers = {workers}
"""


@dataclass(frozen=True)
class World:
    """The folder of a rehearsal, and the sizes of what is written into it."""

    folder: Path
    images: int
    partition: int
    draws: int = 2
    workers: int = 2
    seconds: float = 0.0
    """How long the stand-in takes for an image."""

    @property
    def recipe(self) -> Path:
        return self.folder / f"{NAME}.toml"

    def write(self) -> None:
        """Writes images, annotations, the captioner's files and the recipe into a new folder."""
        self.add(0, self.images)
        model = self.folder / "captioner"
        model.mkdir()
        torch.save({"model": {"nothing": torch.zeros(1)}}, model / "captioner.pth")
        (model / "captioner.json").write_text(json.dumps({"seconds": self.seconds}))
        (model / "vocab.txt").write_text("\n".join(CATEGORIES))
        (model / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{captioner.__file__}"\n')
        (model / "python").chmod(0o755)
        values = {"name": NAME, "folder": self.folder, "root": _ROOT, "partition": self.partition}
        training = LONG_TRAINING.replace("steps = 100000", "steps = 2\nprocesses = 1").replace('"none"', '"pseudo"')
        self.recipe.write_text(_RECIPE.format(**values, draws=self.draws, workers=self.workers) + training)

    def add(self, first: int, end: int) -> None:
        """Writes the images `first` to `end`, and annotations of all images up to `end`."""
        folder = self.folder / "data" / "images"
        originals = write_noise(self.folder / "originals" / str(first), -(-(end - first) // LINKS), WIDTH, HEIGHT)
        for number in range(first, end):
            path = folder / _name(number)
            if number % PATCH == 0 or number == first:
                path.parent.mkdir(parents=True, exist_ok=True)
            os.link(originals[(number - first) // LINKS], path)
        with (self.folder / "data" / "annotations.json").open("w", 2**20) as file:
            file.write('{"images": [')
            for number in range(end):
                named = f'"id": {number + 1}, "file_name": "images/v2/{_name(number)}", "license": 5, "url": ""'
                file.write(f'{", " if number else ""}{{"height": {HEIGHT}, "width": {WIDTH}, {named}}}')
            file.write('], "annotations": [')
            for count, line in enumerate(_boxes(end)):
                file.write(f"{', ' if count else ''}{line}")
            names = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)]
            file.write(f'], "categories": {json.dumps(names)}}}')


def _name(number: int) -> str:
    return f"patch{number // PATCH}/objects365_v2_{number + 1:08}.jpg"


def _boxes(images: int) -> Iterator[str]:
    shares = np.cumsum(1 / np.arange(1, len(CATEGORIES) + 1))
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


FULL = 1_820_000
DEFAULT = (18_200, 36_400)
LOOK_EVERY = 0.25
"""Seconds between two looks. A peak is the kernel's own, so only what a process takes after the last look is missed."""
_ROLES = {
    "prefect server": "Prefect server", "scale/captioner.py": "stand-in", "resource_tracker": "",
    "multiprocessing.forkserver": "worker", "pipeline.training": "training",
}  # fmt: skip
"""Part of a command line → what such a process is called; others belong to the command itself."""


@dataclass
class Measured:
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    outcome: dict[str, Any] = field(default_factory=dict)
    """Its last line of JSON."""
    phases: dict[str, float] = field(default_factory=dict)
    """What it did → seconds: "to STEP", all before the step begins, its planning last; the step itself; "conclude"."""
    peak_mib: dict[str, int] = field(default_factory=dict)
    """Role → the highest resident memory of one such process. Workers count by step."""

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """Step → partitions, rows and seconds."""
        return {each["step"]: each for each in self.outcome["stages"]}


def run_measured(*words: str) -> Measured:
    """Runs `rlip` with these words to its end. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "pipeline.cli", *words]
    measured, before = Measured(), os.times()
    last = began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = _Watch(process.pid, measured)
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            kind = event.get("event")
            if kind == "step":
                watch.step = event["step"]
            if kind in ("step", "done"):
                now = time.monotonic()
                measured.phases[("to " if kind == "step" else "") + event["step"]] = now - last
                last = now
            measured.outcome = event
    watch.join()
    measured.phases["conclude"] = time.monotonic() - last
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = os.times()
    measured.seconds = time.monotonic() - began
    measured.cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return measured


class _Watch(threading.Thread):
    """Notes the memory of a process and its descendants until it ends."""

    def __init__(self, pid: int, measured: Measured) -> None:
        super().__init__(daemon=True)
        self._process, self._measured, self.step = psutil.Process(pid), measured, "prepare"

    def run(self) -> None:
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            try:
                for each in [self._process, *self._process.children(recursive=True)]:
                    self._look_at(each)
            except psutil.NoSuchProcess:
                continue
            time.sleep(LOOK_EVERY)

    def _look_at(self, process: psutil.Process) -> None:
        try:
            words = " ".join(process.cmdline())
        except (OSError, psutil.Error):
            return
        role = next((name for part, name in _ROLES.items() if part in words), "rlip run")
        if role in ("worker", "training"):
            role = f"{role}, {self.step}"
        if role and words:  # no words: it has ended
            self._measured.peak_mib[role] = max(self._measured.peak_mib.get(role, 0), peak_mib(process.pid))


def rehearse(world: World) -> Iterator[Row]:
    size = f"{world.images:,} images"
    world.write()
    command = ("run", str(world.recipe), "--json")
    runs = {"first": run_measured(*command), "again": run_measured(*command)}
    more = -(-world.images // 100)
    world.add(world.images, world.images + more)
    runs[f"{more:,} more"] = run_measured(*command)
    for name, ran in runs.items():
        milliseconds = 1000 * ran.cpu_seconds / world.images
        note = f"{ran.cpu_seconds:.1f} CPU-s, {milliseconds:.2f} ms an image"
        yield Row(f"{size} / {name}", "s", ran.seconds, note=note)
        for phase, seconds in ran.phases.items():
            step = ran.steps.get(phase)
            due = f"{step['partitions'] - (step['cached'] or 0):,} of {step['partitions']:,}" if step else ""
            yield Row(f"{size} / {name}: {phase}", "s", seconds, note=due and f"{due} partitions computed")
        for role, peak in ran.peak_mib.items():
            yield Row(f"{size} / {name}: peak of {role}", "MiB", peak)
    sizes = (path.stat().st_size for path in (world.folder / "store").rglob("*") if path.is_file())
    yield Row(f"{size} / store", "MB", sum(sizes) / 1e6)


def measure(given: Namespace) -> Iterator[Row]:
    for images in given.images:
        folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=given.folder))  # stays for a look if something fails
        yield from rehearse(World(folder, images, 1000, given.draws, given.workers, given.seconds))
        shutil.rmtree(folder)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--images", type=int, nargs="*", default=DEFAULT, help=f"sizes to run; full: {FULL:,}")
    options.add_argument("--seconds", type=float, default=0.0, help="what the stand-in takes for an image")
    options.add_argument("--draws", type=int, default=2, help="captions of an image")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", type=Path, help="parent of the work folder; 100,000 images take 1 GB there")
    run(options, measure)
