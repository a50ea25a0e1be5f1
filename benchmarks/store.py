"""What the store costs: `python benchmarks/store.py`.

plan    `rlip plan` over a store of 2,050 partitions in six stages with everything cached: seconds, and the peak of memory
commit  a partition's captions committed as an artifact, beside the same Parquet file written plainly and synced
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.plan import Chain
from pipeline.recipe import load_recipe
from pipeline.settings import Settings
from pipeline.stage import Inputs, Output, Report, Stage
from pipeline.work import Record, WorkItem, carry_out
from storage.digests import digest_bytes
from storage.disk import LOCAL, Disk
from storage.keys import KeyTerms
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
arms = ["pseudo", "none"]
"""


class NoSync(Disk):
    """For a store that the benchmark only reads."""

    def sync_file(self, path: Path) -> None: ...
    def sync_folder(self, path: Path) -> None: ...


class Given(Stage):
    """Gives a table that is there already: what is left is the store's own work."""

    name = "caption"
    version = 1
    writes = "captions"
    schema = CAPTIONS

    def __init__(self, table: pa.Table) -> None:
        super().__init__(Settings())
        self._table = table

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        return Output(self._table)


def build(folder: Path, partitions: int) -> Path:
    """A data set of tiny images, one a partition, and a store in which every key of its recipe is taken."""
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
    chain = Chain(load_recipe(recipe))
    chain.store.disk = NoSync()
    for step in chain.steps:
        plan = chain.plan(step)
        chain.finish(step, [_take(chain.store, step.stage.name, item) for item in plan.due])
    return recipe


def _take(store: Store, stage: str, item: WorkItem) -> Record:
    """An artifact of the item's key, as big as a manifest is."""
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
    """The command in a process of its own, three times; the median."""
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


def measure_commit(folder: Path, rounds: int) -> dict[str, Any]:
    """A thousand images' captions, ten each; plain file and artifact in turn, medians in milliseconds."""
    table = _captions(np.random.default_rng(0))
    store, stage = Store(folder / "commits"), Given(table)
    plain, ours = [], []
    for number in range(rounds):
        began = time.monotonic()
        write_table(table, folder / f"{number}.parquet")
        LOCAL.sync_file(folder / f"{number}.parquet")
        plain.append(time.monotonic() - began)
        item = WorkItem("caption", str(number), KeyTerms("caption", 1, {"round": number}, {}))
        began = time.monotonic()
        carry_out(stage, item, store, lambda done, total, note="": None)
        ours.append(time.monotonic() - began)
    size = (folder / "0.parquet").stat().st_size
    one, other = statistics.median(plain) * 1000, statistics.median(ours) * 1000
    return {"bytes": size, "plain_ms": round(one, 2), "commit_ms": round(other, 2), "ratio": round(other / one, 3)}


def _captions(generator: np.random.Generator) -> pa.Table:
    words = np.array([f"word{n}" for n in range(2000)])
    rows = [
        {
            "image_id": image_id,
            "captions": [
                {
                    "text": " ".join(generator.choice(words, 10)), "draw": draw, "seed": 0,
                    "log_probability": float(generator.normal(-10, 3)), "source": "blip nucleus",
                }
                for draw in range(10)
            ],
        }
        for image_id in range(1000)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


def main() -> None:
    """Measure and print, as lines and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=2050)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="where to work: a folder of the disk that is meant")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        plan = measure_plan(Path(name), arguments.partitions)
        commit = measure_commit(Path(name), arguments.rounds)
    print(
        f"plan: {plan['artifacts']} artifacts cached, {plan['seconds']} s ({plan['cpu_seconds']} CPU), {plan['peak_mib']} MiB"
    )
    print(f"commit: {commit['commit_ms']} ms, plain and synced {commit['plain_ms']} ms, ratio {commit['ratio']}")
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"plan": plan, "commit": commit, **machine}))


if __name__ == "__main__":
    main()
