"""What shards hold, counted when they are written, so that a training need not read them to know its names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa

from pipeline.training.sample import TrainingSample
from storage.tables import SHARD_STATISTICS

STATISTICS_FILE = "statistics.parquet"


def statistics_of(index: pa.Table, samples: Mapping[str, TrainingSample]) -> pa.Table:
    """Counts what tars hold, given their index and the samples in them by key (schema `SHARD_STATISTICS`)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    placed = dict(zip(index["key"].to_pylist(), index["shard"].to_pylist(), strict=True))
    for key, sample in samples.items():
        shard = placed[key]
        counts[shard, "total", "images"] += 1
        counts[shard, "total", "images without relations"] += not sample.relations
        counts[shard, "total", "boxes"] += len(sample.boxes)
        counts[shard, "total", "relations"] += len(sample.relations)
        counts.update((shard, "object", box.category) for box in sample.boxes)
        counts.update((shard, "predicate", relation.predicate) for relation in sample.relations)
        counts.update((shard, "surface", relation.surface) for relation in sample.relations)
    rows = [
        {"shard": shard, "kind": kind, "name": name, "count": count}
        for (shard, kind, name), count in sorted(counts.items())
    ]
    return pa.Table.from_pylist(rows, schema=SHARD_STATISTICS)


def counts_by_name(tables: Iterable[pa.Table], kind: str) -> Counter[str]:
    """Sums the counts of one kind over all tars, by name."""
    found: Counter[str] = Counter()
    for table in tables:
        columns = (table[name].to_pylist() for name in ("kind", "name", "count"))
        for its_kind, name, count in zip(*columns, strict=True):
            if its_kind == kind:
                found[name] += count
    return found
