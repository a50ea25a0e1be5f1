"""A map of millions of samples: time to open it and to resume, memory and open files.

All tars are hard links to one real tar, and each has an index with keys of its own. So every sample can be read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.streaming.photos import Photos
from benchmarks.streaming.results import Goal, Row
from storage.shards.index import index_path
from storage.shards.sample_map import ShardFile, write_sample_map
from storage.shards.writer import Sample, write_shards
from storage.stream.stream import Stream
from storage.tables import table_bytes

SAMPLES_PER_TAR = 1000
NEAR, FAR, SKIPPED = 10, 10_000_000, 5000
"""Places of the stream where it is resumed, and the samples that webdataset skips."""
BATCH = 10
STREAMED = 5000
MOST_MB, MOST_FILES = 100, 64


def measure_large_map(photos: Photos, folder: Path, tars: int, rounds: int) -> Iterator[Row]:
    """Yields what processes that begin anew need."""
    shards = linked_tars(photos.first(SAMPLES_PER_TAR).samples(), folder, tars)
    began = time.process_time()
    samples = write_sample_map(folder / "map", shards)
    spent = time.process_time() - began
    yield Row(f"map / samples, in {tars:,} tars", "samples", len(samples))
    yield Row("map / time to make it", "CPU-s", spent)
    for place in (NEAR, FAR):
        state = folder / f"state-{place}.json"
        state.write_text(json.dumps(Stream(samples, batch=BATCH).state_after(place // BATCH)))
        seconds = min(_child("resume", samples.folder, state)["seconds"] for _ in range(rounds))
        yield Row(f"resume / first sample at {place:,}", "s", seconds, goal=Goal(1.0, most=True, of_ratio=False))
    skipping = min(_child("webdataset", shards[0].tar, SKIPPED)["seconds"] for _ in range(rounds))
    yield Row(f"resume / webdataset skips {SKIPPED:,} samples", "s", None, skipping)
    idle = _child("imported")
    found = _child("stream", samples.folder, STREAMED)
    private, written = (found[name] - idle[name] for name in ("private_mb", "written_mb"))
    yield Row(
        "memory / private, of a process that streamed", "MB", private, goal=Goal(MOST_MB, most=True, of_ratio=False)
    )
    yield Row("memory / of which no pages of files", "MB", written)
    yield Row("memory / time to open the map", "s", found["open_s"], goal=Goal(1.0, most=True, of_ratio=False))
    yield Row("memory / open files", "files", found["files"], goal=Goal(MOST_FILES, most=True, of_ratio=False))


def linked_tars(samples: Iterable[Sample], folder: Path, tars: int) -> list[ShardFile]:
    """Writes one tar and links to it under other names, and an index for each with keys of its own."""
    folder.mkdir(parents=True)
    table = write_shards(folder, samples, sys.maxsize)
    count = len(table["key"].unique())
    first = folder / "shard-000.tar"
    shards = []
    for number in range(tars):
        tar = folder / f"train-{number:05d}.tar"
        tar.hardlink_to(first)
        index_path(tar).write_bytes(table_bytes(_renamed(table, tar.name, number * count)))
        shards.append(ShardFile(str(tar), index_path(tar)))
    return shards


def _renamed(table: pa.Table, tar: str, start: int) -> pa.Table:
    """Returns the rows with the name of another tar and other keys."""
    ids = table["image_id"].to_numpy() + start
    new = {
        "shard": pa.array(np.full(len(table), tar)),
        "key": pa.array([f"coco-{number:012d}" for number in ids.tolist()]),
        "image_id": pa.array(ids),
    }
    for name, column in new.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


def _child(task: str, *given: object) -> dict[str, Any]:
    """Runs a task of `fresh_process.py` in a process of its own and returns its figures."""
    command = [sys.executable, "-m", "benchmarks.streaming.fresh_process", task, *map(str, given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))
