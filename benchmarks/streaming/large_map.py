"""A map of millions of samples: time to make it and to resume.

All tars are hard links to one real tar, and each has an index with keys of its own. So every sample can be read.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import webdataset

from benchmarks.harness import Row, cpu_seconds, in_own_process, wall_seconds
from benchmarks.photos import Photos
from storage.shards.index import index_path
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.shards.writer import Sample, write_shards
from storage.stream.stream import Stream
from storage.tables import table_bytes

SAMPLES_PER_TAR = 1000
NEAR, FAR, SKIPPED = 10, 10_000_000, 5000
"""Places of the stream where it is resumed, and the samples that webdataset skips."""
BATCH = 10


def measure_large_map(photos: Photos, folder: Path, tars: int, rounds: int) -> Iterator[Row]:
    """Yields what processes that begin anew need."""
    shards = linked_tars(photos.first(SAMPLES_PER_TAR).samples(), folder, tars)
    spent = cpu_seconds(lambda: write_sample_map(folder / "map", shards))
    samples = SampleMap(folder / "map")
    yield Row(f"map / samples, in {tars:,} tars", "samples", len(samples))
    yield Row("map / time to make it", "CPU-s", spent)
    for place in (NEAR, FAR):
        state = json.dumps(Stream(samples, batch=BATCH).state_after(place // BATCH))
        seconds = min(in_own_process(resume, samples.folder, state) for _ in range(rounds))
        yield Row(f"resume / first sample at {place:,}", "s", seconds)
    skipping = min(in_own_process(skip, shards[0].tar) for _ in range(rounds))
    yield Row(f"resume / webdataset skips {SKIPPED:,} samples", "s", None, skipping)


def resume(folder: Path, state: str) -> float:
    """Opens a map and reads the first sample after a state. Returns seconds."""
    began = time.perf_counter()
    stream = Stream(SampleMap(folder), batch=BATCH)
    stream.load_state_dict(json.loads(state))
    next(iter(stream))
    return time.perf_counter() - began


def skip(tar: str) -> float:
    """Reads the sample after those that webdataset has to read to skip them. Returns seconds."""
    samples = webdataset.WebDataset([tar], shardshuffle=False).repeat()
    return wall_seconds(lambda: next(islice(iter(samples), SKIPPED, None)))


def linked_tars(samples: Iterable[Sample], folder: Path, tars: int) -> list[ShardFile]:
    """Writes one tar and links to it under other names, and an index for each with keys of its own."""
    folder.mkdir(parents=True)
    table = write_shards(folder, samples, sys.maxsize)
    count = len(table["key"].unique())
    shards = []
    for number in range(tars):
        tar = folder / f"train-{number:05d}.tar"
        tar.hardlink_to(folder / "shard-000.tar")
        index_path(tar).write_bytes(table_bytes(_renamed(table, tar.name, number * count)))
        shards.append(ShardFile(str(tar), index_path(tar)))
    return shards


def _renamed(table: pa.Table, tar: str, start: int) -> pa.Table:
    """Returns the rows with the name of another tar and other keys."""
    ids = table["image_id"].to_numpy() + start
    keys = [f"coco-{number:012d}" for number in ids.tolist()]
    for name, column in {"shard": np.full(len(table), tar), "key": keys, "image_id": ids}.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(column))
    return table
