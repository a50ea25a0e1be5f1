"""Measures the cost of the store: `python benchmarks/store.py`.

plan    `rlip plan` with 2,050 partitions in six stages, all cached: seconds and peak memory
remote  the same plan with 20 ms per request to the store (an object store in memory, with s3fs's concurrency), on a
        machine that has read no manifest yet, and again
commit  a commit of a partition's captions, by size, compared with writing and syncing the same Parquet file. Both wait
        until the bytes are on disk. A commit also waits until its name is on disk: the name must not be visible before
        the bytes are safe, so the two waits cannot be combined. The rest is CPU time. Also measures the minimum with
        both guarantees: one file, synced and renamed, and its folder synced, without a manifest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
from fsspec.asyn import AsyncFileSystem
from PIL import Image

from pipeline.run.context import RunContext
from pipeline.run.planner import Planner, forecast
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.execute import Record, WorkItem, execute
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from storage.atomic import put_in_place
from storage.digests import digest_bytes
from storage.disk import LOCAL, Disk
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.manifest import Counts, FileEntry, Manifest
from storage.store import Store
from storage.tables import CAPTIONS, write_table

RECIPE = """
name = "synthetic"
store = "{folder}/store"
[data]
root = "{folder}/data"
partition_size = 1
label = ["coco"]
tagger = ["coco"]
[[data.sources]]
name = "coco"
format = "coco"
images = "images"
annotations = "instances.json"
[caption]
captioner = "recorded"
recorded = ["captions.json"]
[pretrain]
variants = ["pseudo", "none"]
"""


class NoSync(Disk):
    """Skips syncing, for a store that only this benchmark reads."""

    def sync_file(self, path: Path) -> None: ...
    def sync_folder(self, path: Path) -> None: ...


class Timed(Disk):
    """Records the seconds of each wait for the disk: for bytes and their folder, then for the artifact's name."""

    def __init__(self) -> None:
        self.bytes_safe: list[float] = []
        self.name_safe: list[float] = []

    def sync_all(self, files: Sequence[Path], folder: Path) -> None:
        began = time.monotonic()
        super().sync_all(files, folder)
        self.bytes_safe.append(time.monotonic() - began)

    def sync_folder(self, path: Path) -> None:
        began = time.monotonic()
        super().sync_folder(path)
        if path.parent.name == "artifacts":
            self.name_safe.append(time.monotonic() - began)


class Given(Stage):
    """Returns a given table, so that only the store's own work is measured."""

    name = "caption"
    version = 1
    writes = "captions"
    schema = CAPTIONS

    def __init__(self, table: pa.Table) -> None:
        super().__init__(Settings())
        self._table = table

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        return Output(self._table)


class Distant(AsyncFileSystem):
    """An object store in memory. Each request takes `DELAY` seconds; a listing takes one per thousand objects."""

    protocol = "distant"
    cachable = False
    DELAY = 0.02
    objects: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[int] = 0

    @classmethod
    async def _wait(cls, requests: int = 1) -> None:
        cls.requests += requests
        await asyncio.sleep(cls.DELAY * requests)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **settings: Any) -> bytes:
        await self._wait()
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **settings: Any) -> None:
        await self._wait()
        if mode == "create" and path in self.objects:
            raise FileExistsError(path)
        self.objects[path] = value

    async def _find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **settings: Any) -> Any:
        found = {name: data for name, data in self.objects.items() if name.startswith(f"{path}/")}
        await self._wait(1 + len(found) // 1000)
        return {name: {"name": name, "size": len(data), "type": "file"} for name, data in found.items()}

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None: ...


def build(folder: Path, partitions: int) -> Path:
    """Writes a dataset of tiny images, one per partition, and a store with all its keys. Returns the recipe's path."""
    (folder / "data" / "images").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "data" / "images" / "0.png")
    data = (folder / "data" / "images" / "0.png").read_bytes()
    for number in range(1, partitions + 1):
        (folder / "data" / "images" / f"{number}.png").write_bytes(data + str(number).encode())
    images = [{"id": n, "file_name": f"{n}.png", "width": 16, "height": 16} for n in range(1, partitions + 1)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 2, 9, 9]} for n in range(1, partitions + 1)]
    sets = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}
    (folder / "data" / "instances.json").write_text(json.dumps(sets))
    (folder / "data" / "captions.json").write_text("[]")
    recipe = folder / "synthetic.toml"
    recipe.write_text(RECIPE.format(folder=folder))
    planner = Planner(RunContext(load_recipe(recipe)))
    planner.context.store.disk = NoSync()
    for step in planner.context.steps:
        plan = planner.plan(step)
        planner.finish(step, [_take(planner.context.store, step.stage.name, item) for item in plan.due])
    return recipe


def _take(store: Store, stage: str, item: WorkItem) -> Record:
    """Commits a small artifact, with a full manifest, under the item's key."""
    data = item.key.encode()
    with store.draft() as draft:
        (draft / "table.parquet").write_bytes(data)
        entry = FileEntry(digest=digest_bytes(data), size=len(data))
        manifest = Manifest(
            stage=stage, key=item.key, partition=item.partition, terms=item.terms.as_json(), upstream=item.upstream,
            files={"table.parquet": entry}, schema_fingerprint="", counts=Counts(rows_in=1, rows_out=1), seconds=0,
            host="", versions={},
        )  # fmt: skip
        return Record.of(item.step, item.partition, store.commit(draft, manifest), cached=False)


def measure_plan(folder: Path, partitions: int) -> dict[str, Any]:
    """Runs the command three times in separate processes. Returns median times."""
    recipe = build(folder, partitions)
    command = [str(Path(sys.executable).with_name("rlip")), "plan", str(recipe), "--json"]
    seconds, processor = [], []
    for _ in range(3):
        began, before = time.monotonic(), os.times().children_user + os.times().children_system
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - began)
        processor.append(os.times().children_user + os.times().children_system - before)
    steps = json.loads(done.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "artifacts": sum(step["cached"] for step in steps), "due": sum(step["due"] for step in steps),
        "seconds": round(statistics.median(seconds), 2), "cpu_seconds": round(statistics.median(processor), 2),
        "peak_mib": round(peak),
    }  # fmt: skip


def measure_remote(folder: Path, partitions: int) -> dict[str, Any]:
    """Copies the local store's artifacts to the remote store and plans from there, twice."""
    fsspec.register_implementation("distant", Distant)
    os.environ["RLIP_CACHE"] = str(folder / "cache")
    for top in ("artifacts", "cuts", "runs"):
        for path in (folder / "store" / top).rglob("*"):
            if path.is_file():
                Distant.objects[f"bucket/{path.relative_to(folder / 'store')}"] = path.read_bytes()
    figures: dict[str, Any] = {}
    indexes = folder / "store" / "indexes"  # parsing annotations is not measured here
    overrides = ["store=distant://bucket", *([f"ingest.indexes={indexes}"] if indexes.exists() else [])]
    for name in ("first", "again"):
        before, began = Distant.requests, time.monotonic()
        steps = list(forecast(Planner(RunContext(load_recipe(folder / "synthetic.toml", overrides)))))
        figures[f"{name}_seconds"] = round(time.monotonic() - began, 2)
        figures[f"{name}_requests"] = Distant.requests - before
    return {"artifacts": sum(s.cached for s in steps), "due": sum(s.due or 0 for s in steps), **figures}


def measure_commit(folder: Path, rounds: int, images: int) -> dict[str, Any]:
    """Commits captions of `images` images, ten each. Returns quartiles in ms of plain file, minimum and artifact."""
    table, disk = _captions(np.random.default_rng(0), images), Timed()
    store, stage = LocalStore(folder / f"commits{images}", disk), Given(table)
    plain, plain_wait, least, ours = [], [], [], []
    (folder / f"least{images}").mkdir()
    for number in range(rounds):
        path = folder / f"{images}-{number}.parquet"
        began = time.monotonic()
        write_table(table, path)
        written = time.monotonic()
        LOCAL.sync_file(path)
        plain_wait.append(time.monotonic() - written)
        plain.append(time.monotonic() - began)
        aside = folder / f"least{images}" / "aside"
        began = time.monotonic()
        write_table(table, aside)
        put_in_place(aside, aside.with_name(path.name))
        least.append(time.monotonic() - began)
        item = WorkItem("caption", str(number), KeyTerms("caption", 1, {"round": number}, {}))
        began = time.monotonic()
        execute(stage, item, store, lambda done, total, note="": None)
        ours.append(time.monotonic() - began)
    return {
        "bytes": path.stat().st_size, "rounds": rounds, "plain_ms": _spread(plain), "commit_ms": _spread(ours),
        "plain_wait_ms": _spread(plain_wait), "bytes_wait_ms": _spread(disk.bytes_safe),
        "name_wait_ms": _spread(disk.name_safe), "least_ms": _spread(least),
        "least_ratio": round(statistics.median(least) / statistics.median(plain), 3),
        "ratio": round(statistics.median(ours) / statistics.median(plain), 3),
    }  # fmt: skip


def _spread(seconds: list[float]) -> list[float]:
    """Returns lower quartile, median and upper quartile in milliseconds."""
    return [round(quartile * 1000, 2) for quartile in statistics.quantiles(seconds, method="inclusive")]


def _captions(generator: np.random.Generator, images: int) -> pa.Table:
    words = [f"word{n}" for n in range(2000)]
    drawn = generator.integers(0, len(words), (images, 10, 10))
    scores = generator.normal(-10, 3, (images, 10))
    rows = [
        {
            "image_id": image_id,
            "captions": [
                {
                    "text": " ".join(words[word] for word in drawn[image_id, draw]), "draw": draw, "seed": 0,
                    "log_probability": float(scores[image_id, draw]), "source": "blip nucleus",
                }
                for draw in range(10)
            ],
        }
        for image_id in range(images)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


def main() -> None:
    """Measures, and prints lines and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=2050)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="parent of the work folder, on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        plan = measure_plan(Path(name), arguments.partitions)
        remote = measure_remote(Path(name), arguments.partitions)
        sizes = ((1000, arguments.rounds), (10_000, arguments.rounds), (100_000, 10))
        commits = [measure_commit(Path(name), rounds, images) for images, rounds in sizes]
    print(
        f"plan: {plan['artifacts']} artifacts cached, {plan['seconds']} s ({plan['cpu_seconds']} CPU), {plan['peak_mib']} MiB"
    )
    print(
        f"remote: {remote['artifacts']} artifacts cached, {remote['first_seconds']} s ({remote['first_requests']} requests), "
        f"again {remote['again_seconds']} s ({remote['again_requests']} requests)"
    )
    for commit in commits:
        low, middle, high = commit["commit_ms"]
        print(
            f"commit of {commit['bytes']:,} bytes: {middle} ms ({low} to {high}), with {commit['bytes_wait_ms'][1]} waiting "
            f"for the bytes and {commit['name_wait_ms'][1]} for the name; plain and synced: {commit['plain_ms'][1]} ms, with "
            f"{commit['plain_wait_ms'][1]} waiting; ratio {commit['ratio']}, minimum ratio {commit['least_ratio']}"
        )
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"plan": plan, "remote": remote, "commit": commits, **machine}))


if __name__ == "__main__":
    main()
