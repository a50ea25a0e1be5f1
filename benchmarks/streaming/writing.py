"""Writing shards, beside copying the same bytes with sha256 and beside webdataset's ShardWriter."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import webdataset

from benchmarks.harness import Row, best_of
from benchmarks.photos import Photos
from storage.shards.index import index_path, write_index
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.shards.writer import write_shards

TAR_BYTES = 2**26


def compare_writing(photos: Photos, folder: Path, rounds: int) -> Iterator[Row]:
    """Yields megabytes per CPU-second of each way."""
    ways = {
        "ours": lambda: write_indexed(photos, _emptied(folder / "ours")),
        "one copy": lambda: copy_into_one(photos, _emptied(folder / "one")),
        "ShardWriter": lambda: write_by_webdataset(photos, _emptied(folder / "webdataset")),
    }
    speeds = {name: photos.megabytes / seconds for name, seconds in best_of(ways, rounds).items()}
    unit = "MB/CPU-s"
    yield Row("writing / copying into one file, with sha256", unit, speeds["ours"], speeds["one copy"])
    yield Row("writing / webdataset.ShardWriter", unit, speeds["ours"], speeds["ShardWriter"])


def write_indexed(photos: Photos, folder: Path) -> list[ShardFile]:
    """Writes our shards with an index beside each."""
    table = write_shards(folder, photos.samples(), TAR_BYTES)
    tars = sorted(folder.glob("*.tar"))
    for tar in tars:
        write_index(tar, table.filter(pc.equal(table["shard"], tar.name)))
    return [ShardFile(str(tar), index_path(tar)) for tar in tars]


def write_mapped(photos: Photos, folder: Path) -> SampleMap:
    """Writes our shards and the map of their samples."""
    return write_sample_map(folder / "map", write_indexed(photos, _emptied(folder / "tars")))


def copy_into_one(photos: Photos, folder: Path) -> None:
    """Appends the bytes of all images and labels to one file."""
    with (folder / "all").open("wb") as file:
        for sample in photos.samples():
            for data in sample.members.values():
                hashlib.sha256(data).hexdigest()
                file.write(data)


def write_by_webdataset(photos: Photos, folder: Path) -> None:
    """Writes the same samples with webdataset, which neither hashes nor indexes them."""
    with webdataset.ShardWriter(str(folder / "shard-%03d.tar"), maxsize=TAR_BYTES, verbose=0) as writer:
        for sample in photos.samples():
            writer.write({"__key__": sample.key, **sample.members})


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
