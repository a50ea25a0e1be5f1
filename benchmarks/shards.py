"""Measures shards and streams beside other libraries: `python -m benchmarks.shards` (`--help`), about five minutes.

writing     our shards with their index, beside copying the same bytes with sha256, and webdataset.ShardWriter
reading     bytes of images and labels; ours compares each with its checksum, others with nothing or one of their own
decoding    images decoded to bytes of red, green and blue, beside a bare loop over bytes in memory
map, resume a map of 2,000,000 samples in 2,000 `--tars`, each figure from a fresh process. All tars are hard links to
            one real tar, and each has an index with keys of its own, so every sample can be read

All read the same JPEGs of `--megabytes`, which the page cache holds; `--decoded` of them are decoded. Speeds are per
CPU-second of all threads, in the best of `--rounds` turns that the libraries take one after the other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import sys
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torchvision.datasets import CocoDetection
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.harness import Row, best_of, in_own_process, parser, run, wall_seconds, write_noise
from pipeline.runtime.processes import keep_freed_memory
from storage.shards.index import index_path, write_index
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.shards.writer import Sample, write_shards
from storage.stream.stream import Stream
from storage.tables import table_bytes

Way = Callable[[], Iterable[object]]
CHUNK_BYTES = 2**26
LABEL_BYTES = 2000


@dataclass(frozen=True)
class Photos:
    """Image files, each of which exists on its own so that the page cache holds as many bytes as are read."""

    paths: list[Path]
    sizes: list[tuple[int, int]]
    """Width and height of each in pixels."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def megabytes(self) -> float:
        return sum(path.stat().st_size for path in self.paths) / 1e6

    def first(self, count: int) -> Photos:
        return Photos(self.paths[:count], self.sizes[:count])

    def samples(self) -> Iterator[Sample]:
        """Reads each file and yields its sample."""
        for number, (path, (width, height)) in enumerate(zip(self.paths, self.sizes, strict=True)):
            yield Sample("coco", number, {"jpg": path.read_bytes(), "json": label(number)}, width, height)


def label(number: int) -> bytes:
    """Returns the labels of an image: JSON of about `LABEL_BYTES` bytes, like that of seven boxes with relations."""
    box = {"category": "person", "bbox": [12.25, 34.5, 200.75, 180.5], "relations": [["holding", number % 7, 0.83]]}
    boxes = [box] * (LABEL_BYTES // len(json.dumps(box)))
    return json.dumps({"image_id": number, "boxes": boxes}).encode()


def write_photos(folder: Path, megabytes: float) -> Photos:
    """Repeats the photographs of COCO in the folder that `RLIP_SHARED` names up to a size; noise if there are none."""
    source = Path(os.environ.get("RLIP_SHARED", "../shared")) / "data/coco/sample2017"
    originals = sorted(source.glob("*.jpg")) or write_noise(folder / "noise", 64)
    sizes = [Image.open(path).size for path in originals]
    data = [path.read_bytes() for path in originals]
    repeats = max(1, round(megabytes * 1e6 / sum(map(len, data))))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(len(data) * repeats)]
    for number, path in enumerate(paths):
        path.write_bytes(data[number % len(data)])
    return Photos(paths, sizes * repeats)


class Peer(NamedTuple):
    """How a library reads all samples: their bytes, and their decoded images with labels; None if not compared."""

    read: Way | None
    decode: Way | None


def _webdataset(photos: Photos, tars: Sequence[str], folder: Path) -> Peer:
    def read(*decoders: str) -> Iterable[object]:
        samples = webdataset.WebDataset(list(tars), shardshuffle=False)
        return samples.decode(*decoders) if decoders else samples

    return Peer(read, lambda: read("torchrgb8"))


def _litdata(photos: Photos, tars: Sequence[str], folder: Path) -> Peer:
    import litdata

    inputs = [(str(path), sample.members["json"]) for path, sample in zip(photos.paths, photos.samples(), strict=True)]
    for name, make in (("bytes", _as_bytes), ("images", _as_image)):
        settings = {"chunk_bytes": CHUNK_BYTES, "num_workers": 1, "start_method": "fork", "verbose": False}
        litdata.optimize(make, inputs, str(folder / name), **settings)

    def decode() -> Iterator[object]:
        for sample in litdata.StreamingDataset(str(folder / "images")):
            yield sample["jpg"], json.loads(bytes(sample["json"]))

    return Peer(lambda: litdata.StreamingDataset(str(folder / "bytes")), decode)


def _as_bytes(sample: tuple[str, bytes]) -> dict[str, bytes]:
    return {"jpg": Path(sample[0]).read_bytes(), "json": sample[1]}


def _as_image(sample: tuple[str, bytes]) -> dict[str, Any]:
    return {"jpg": Image.open(sample[0]), "json": sample[1]}


def _spdl(photos: Photos, tars: Sequence[str], folder: Path) -> Peer:
    import spdl.io

    def read() -> Iterator[dict[str, bytes]]:
        for tar in tars:
            with Path(tar).open("rb") as file:
                sample: dict[str, bytes] = {}
                for name, data in spdl.io.iter_tarfile(file):
                    sample[name.rpartition(".")[2]] = data
                    if len(sample) == 2:
                        yield sample
                        sample = {}

    return Peer(read, None)  # it decodes with FFmpeg, which few machines have


def _grain(photos: Photos, tars: Sequence[str], folder: Path) -> Peer:
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns that JAX, which is optional, is missing
    import grain
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(exist_ok=True)
    path = str(folder / "samples.array_record")
    writer = ArrayRecordWriter(path, "group_size:1,uncompressed")  # JPEGs can't be compressed again
    for sample in photos.samples():
        writer.write(pickle.dumps(sample.members))
    writer.close()

    def read(unpack: Callable[[bytes], object]) -> Iterable[object]:
        return grain.MapDataset.source(grain.sources.ArrayRecordDataSource([path])).map(unpack).to_iter_dataset()

    return Peer(lambda: read(pickle.loads), lambda: read(lambda record: _decoded(pickle.loads(record))))


def _coco_detection(photos: Photos, tars: Sequence[str], folder: Path) -> Peer:
    """Torchvision's dataset of single files, which it always decodes. Its labels are in memory from the beginning."""
    images = [{"id": number, "file_name": path.name} for number, path in enumerate(photos.paths)]
    box = {"bbox": [12.25, 34.5, 200.75, 180.5], "category_id": 1, "iscrowd": 0, "area": 36235.4}
    boxes = [box | {"id": 7 * each["id"] + n, "image_id": each["id"]} for each in images for n in range(7)]  # type: ignore[operator]
    annotations = folder.with_suffix(".json")
    annotations.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1}]}))
    with redirect_stdout(None):  # pycocotools prints its progress
        dataset = CocoDetection(str(photos.paths[0].parent), str(annotations), transform=pil_to_tensor)
    return Peer(None, lambda: (dataset[n] for n in range(len(dataset))))


PEERS: dict[str, Callable[[Photos, Sequence[str], Path], Peer]] = {
    "webdataset": _webdataset, "litdata": _litdata, "spdl": _spdl, "grain": _grain, "CocoDetection": _coco_detection,
}  # fmt: skip
"""Each writes the samples as it likes them into a folder, or reads those in tars."""
MISSING = [name for name in ("litdata", "spdl", "grain") if not find_spec(name)]
TAR_BYTES = 2**26
READ_TOGETHER = 8
SAMPLES_PER_TAR = 1000
NEAR, FAR, SKIPPED = 10, 10_000_000, 5000
"""Places of the stream where it is resumed, and the samples that webdataset skips."""
BATCH = 10


def compare_writing(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields megabytes per CPU-second of each way."""
    ways = {
        "ours": lambda: write_indexed(photos, _emptied(folder / "ours")),
        "one copy": lambda: copy_into_one(photos, _emptied(folder / "one")),
        "ShardWriter": lambda: write_by_webdataset(photos, _emptied(folder / "webdataset")),
    }
    speeds = {name: photos.megabytes / seconds for name, seconds in best_of(ways, given.rounds).items()}
    unit = "MB/CPU-s"
    yield Row("writing / copying into one file, with sha256", unit, speeds["ours"], speeds["one copy"])
    yield Row("writing / webdataset.ShardWriter", unit, speeds["ours"], speeds["ShardWriter"])


def write_indexed(photos: Photos, folder: Path) -> list[ShardFile]:
    table = write_shards(folder, photos.samples(), TAR_BYTES)
    tars = sorted(folder.glob("*.tar"))
    for tar in tars:
        write_index(tar, table.filter(pc.equal(table["shard"], tar.name)))
    return [ShardFile(str(tar), index_path(tar)) for tar in tars]


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


def opened(photos: Photos, folder: Path) -> tuple[Way, dict[str, Peer]]:
    """Writes the images for our stream and for each peer. Returns how they read them."""
    samples = write_sample_map(folder / "map", write_indexed(photos, _emptied(folder / "tars")))
    peers = {name: peer(photos, samples.tars, folder / name) for name, peer in PEERS.items() if name not in MISSING}
    return lambda: Stream(samples, batch=READ_TOGETHER, epochs=1), peers


def compare_reading(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Compares reading bytes. Ours compares each member with its checksum."""
    stream, peers = opened(photos, folder)
    ways = {name: peer.read for name, peer in peers.items() if peer.read}
    return compared("reading", photos, stream, ways, given.rounds)


def compare_decoding(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Compares reading images decoded to bytes of red, green and blue, and their labels."""
    few = photos.first(given.decoded)
    stream, peers = opened(few, folder)
    members = [dict(sample.members) for sample in few.samples()]
    ways = {name: peer.decode for name, peer in peers.items() if peer.decode}
    ways["bare loop over bytes in memory"] = lambda: map(_decoded, members)
    # A few per cent count here, so that it needs more turns.
    return compared("decoding", few, lambda: map(_decoded, stream()), ways, 3 * given.rounds)


def compared(what: str, photos: Photos, ours: Way, peers: Mapping[str, Way], rounds: int) -> Iterator[Row]:
    best = best_of({name: partial(_exhaust, way) for name, way in {"": ours, **peers}.items()}, rounds)
    speeds = {name: len(photos) / seconds for name, seconds in best.items()}
    for name in peers:
        yield Row(f"{what} / {name}", "images/CPU-s", speeds[""], speeds[name])


def _exhaust(way: Way) -> int:
    return sum(1 for _ in way())


def _decoded(sample: dict[str, bytes]) -> tuple[Tensor, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bytes can't be written to, and nobody does
        data = torch.frombuffer(sample["jpg"], dtype=torch.uint8)
    return decode_jpeg(data, mode=ImageReadMode.RGB), json.loads(sample["json"])


def measure_large_map(photos: Photos, folder: Path, given: Namespace) -> Iterator[Row]:
    """Yields what processes that begin anew need."""
    shards = linked_tars(photos.first(SAMPLES_PER_TAR).samples(), folder, given.tars)
    samples = write_sample_map(folder / "map", shards)
    for place in (NEAR, FAR):
        state = json.dumps(Stream(samples, batch=BATCH).state_after(place // BATCH))
        seconds = min(in_own_process(resume, samples.folder, state) for _ in range(given.rounds))
        yield Row(f"resume / first sample at {place:,}", "s", seconds)
    skipping = min(in_own_process(skip, shards[0].tar) for _ in range(given.rounds))
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
    ids = table["image_id"].to_numpy() + start
    keys = [f"coco-{number:012d}" for number in ids.tolist()]
    for name, column in {"shard": np.full(len(table), tar), "key": keys, "image_id": ids}.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(column))
    return table


PARTS: dict[str, Callable[[Photos, Path, Namespace], Iterator[Row]]] = {
    "writing": compare_writing, "reading": compare_reading, "decoding": compare_decoding, "map": measure_large_map,
}  # fmt: skip


def measure(given: Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as the engine's workers do; it speeds up the peers too
    for peer in MISSING:
        yield Row(peer, note="not installed: pip install 'rlip[bench]'")
    with tempfile.TemporaryDirectory() as name:
        photos = write_photos(Path(name) / "images", given.megabytes)
        yield Row("images", "", len(photos), note=f"{photos.megabytes:.0f} MB")
        for part in given.parts:
            yield from PARTS[part](photos, Path(name) / part, given)


if __name__ == "__main__":
    options = parser(__doc__, megabytes=200, decoded=188, tars=2000, rounds=5)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    run(options, measure)
