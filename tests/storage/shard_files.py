"""Shards with made-up samples, and the map of all of them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import fsspec

from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.shards.writer import Sample, write_shards
from storage.tables import write_table


def made_samples(dataset: str, count: int) -> Iterator[Sample]:
    """Samples whose bytes name them."""
    for number in range(count):
        name = f"{dataset} {number} ".encode()
        yield Sample(dataset, number, {"jpg": name * (3 + number % 7), "json": b"{%d}" % number}, 64, 48 + number % 5)


def write_sets(folder: Path, sets: Mapping[str, int], max_bytes: int = 40_000) -> list[ShardFile]:
    """Writes datasets as stage `shard` does, each into tars of its own."""
    found = []
    for dataset, count in sets.items():
        place = folder / dataset
        place.mkdir(parents=True)
        write_table(write_shards(place, made_samples(dataset, count), max_bytes), place / "shards.parquet")
        found += [ShardFile(str(tar), place / "shards.parquet") for tar in sorted(place.glob("*.tar"))]
    return found


def made_map(folder: Path, sets: Mapping[str, int]) -> SampleMap:
    """The map of sets written by `write_sets`."""
    return write_sample_map(folder / "map", write_sets(folder / "sets", sets))


def moved(shards: Iterable[ShardFile]) -> list[ShardFile]:
    """The same tars at a URL, with their indexes here."""
    files, place = fsspec.filesystem("memory"), f"memory://{uuid4().hex}"
    found = []
    for number, shard in enumerate(shards):
        files.pipe(f"{place}/{number}.tar", Path(shard.tar).read_bytes())
        found.append(ShardFile(f"{place}/{number}.tar", shard.index, Path(shard.tar).name))
    return found
