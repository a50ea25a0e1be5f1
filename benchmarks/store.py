"""Measures the cost of the store: `python -m benchmarks.store`.

plan    `rlip plan` with 2,050 partitions in six stages, all cached: seconds and peak memory
commit  a commit of a partition's captions, by size, compared with writing and syncing the same Parquet file. Both wait
        until the bytes are on disk. A commit also waits until its name is on disk: the name must not be visible before
        the bytes are safe, so the two waits cannot be combined. The rest is CPU time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

import numpy as np
import pyarrow as pa

from benchmarks.harness import Row, parser, run, wall_seconds
from pipeline.run.context import RunContext
from pipeline.run.planner import Planner
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.execute import Record, WorkItem, execute
from pipeline.runtime.stage import Output
from storage.disk import LOCAL, CacheDisk
from storage.keys import KeyTerms
from storage.local_store import LocalStore
from storage.tables import CAPTIONS, write_table
from tests.run_builder import Made
from tests.small_set import write_small_set
from tests.toy_store import commit as put


def build(folder: Path, partitions: int) -> list[str]:
    """Writes a dataset of an image a partition, and a store with all its keys. Returns the words naming its recipe."""
    recipe = write_small_set(folder / "data", partitions)
    settings = ["data.partition_size=1", 'data.tagger=["set"]', 'pretrain.variants=["pseudo", "none"]']
    planner = Planner(RunContext(load_recipe(recipe, settings)))
    store = planner.context.store
    store.disk = CacheDisk()
    for step in planner.context.steps:
        plan = planner.plan(step)
        records = []
        for item in plan.due:
            made = put(store, item.terms, "table.parquet", item.key.encode(), item.upstream, item.partition, rows=1)
            records.append(Record.of(item.step, item.partition, made, cached=False))
        planner.finish(step, records)
    return [str(recipe), *(word for setting in settings for word in ("--set", setting))]


def measure_plan(folder: Path, partitions: int) -> Iterator[Row]:
    """Runs the command three times in separate processes."""
    command, seconds = [sys.executable, "-m", "pipeline.cli", "plan", *build(folder, partitions), "--json"], []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - began)
    steps = json.loads(done.stdout)
    note = f"{sum(step['cached'] for step in steps):,} artifacts cached, {sum(step['due'] for step in steps):,} due"
    yield Row("plan", "s", median(seconds), note=note)
    yield Row("plan: peak memory", "MiB", getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024)


def measure_commit(folder: Path, rounds: int, images: int) -> Iterator[Row]:
    """Commits captions of `images` images, ten each, beside a plain file. The two take turns."""
    table, folder = _captions(np.random.default_rng(0), images), folder / f"commits{images}"
    store, stage = LocalStore(folder / "store"), Made("caption", lambda work: Output(table))

    def write(path: Path) -> None:
        write_table(table, path)
        LOCAL.sync_file(path)

    def commit(path: Path) -> None:
        item = WorkItem("caption", path.stem, KeyTerms("caption", 1, {"round": path.stem}, {}))
        execute(stage, item, store, lambda done, total, note="": None)

    paths = [folder / f"{number}.parquet" for number in range(rounds)]
    turns = [[wall_seconds(lambda way=way, path=path: way(path)) for way in (write, commit)] for path in paths]
    plain, ours = (1000 * median(times) for times in zip(*turns, strict=True))
    size = f"{paths[0].stat().st_size / 1e6:.1f} MB"
    yield Row(f"commit of {size}, beside a plain synced file", "ms", ours, plain)


def _captions(draws: np.random.Generator, images: int) -> pa.Table:
    words = draws.integers(0, 2000, (images, 10, 10)).tolist()
    scores = draws.normal(-10, 3, (images, 10)).tolist()

    def caption(image: int, draw: int) -> dict[str, object]:
        text = " ".join(f"word{word}" for word in words[image][draw])
        facts = {"seed": 0, "log_probability": scores[image][draw], "source": "blip nucleus"}
        return {"text": text, "draw": draw, **facts}

    rows = [{"image_id": image, "captions": [caption(image, draw) for draw in range(10)]} for image in range(images)]
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


def measure(given: Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        yield from measure_plan(Path(name), given.partitions)
        for images, rounds in ((1000, given.rounds), (10_000, given.rounds), (100_000, -(-given.rounds // 10))):
            yield from measure_commit(Path(name), rounds, images)


if __name__ == "__main__":
    options = parser(__doc__, partitions=2050, rounds=100)
    options.add_argument("--folder", type=Path, help="parent of the work folder, on the disk to measure")
    run(options, measure)
