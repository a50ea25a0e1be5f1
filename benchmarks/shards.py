"""Measures shards and streams beside other libraries: `python -m benchmarks.shards` (`--help`), about five minutes.

writing     our shards with their index, beside copying the same bytes with sha256, and webdataset.ShardWriter
reading     bytes of images and labels; ours compares each with its checksum, the others with nothing or one of their own
decoding    images decoded to bytes of red, green and blue, beside a bare loop over bytes in memory
map, resume a map of 2,000,000 samples in 2,000 tars, each figure from a fresh process. All tars are hard links to one real
            tar, and each has an index with keys of its own, so every sample can be read

All read the same JPEGs, which the page cache holds. Speeds are per CPU-second of all threads, in the best of several
turns that the libraries take one after the other.
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
from typing import Any

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

from benchmarks.harness import Row, best_of, in_own_process, parser, run, wall_seconds
from benchmarks.photos import Photos, write_photos
from pipeline.runtime.processes import keep_freed_memory
from storage.shards.index import index_path, write_index
from storage.shards.sample_map import SampleMap, ShardFile, write_sample_map
from storage.shards.writer import Sample, write_shards
from storage.stream.stream import Stream
from storage.tables import table_bytes

INSTALL = "not installed: pip install 'rlip[bench]'"
CHUNK_BYTES = 2**26


@dataclass(frozen=True)
class Reader:
    """How a library reads all samples: their bytes, or their decoded images with labels. None: it can't, see `note`."""

    name: str
    read: Callable[[], Iterable[object]] | None = None
    decode: Callable[[], Iterable[object]] | None = None
    decoder: str = ""
    note: str = ""


def rgb(data: bytes) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bytes can't be written to, and nobody does
        return decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), mode=ImageReadMode.RGB)


def peers(photos: Photos, tars: Sequence[str], folder: Path) -> list[Reader]:
    """Returns the readers, after each has written the samples as it likes them below `folder`."""
    return [
        _webdataset(tars), _litdata(photos, folder / "litdata"), _spdl(tars), _grain(photos, folder / "grain"),
        _coco_detection(photos, folder / "annotations.json"),
    ]  # fmt: skip


def _webdataset(tars: Sequence[str]) -> Reader:
    def read(*decoders: str) -> Iterable[object]:
        samples = webdataset.WebDataset(list(tars), shardshuffle=False)
        return samples.decode(*decoders) if decoders else samples

    return Reader("webdataset", read, lambda: read("torchrgb8"), "Pillow (torchrgb8)")


def _litdata(photos: Photos, folder: Path) -> Reader:
    if not find_spec("litdata"):
        return Reader("litdata", note=INSTALL)
    import litdata

    inputs = [(str(path), sample.members["json"]) for path, sample in zip(photos.paths, photos.samples(), strict=True)]
    for name, make in (("bytes", _as_bytes), ("images", _as_image)):
        settings = {"chunk_bytes": CHUNK_BYTES, "num_workers": 1, "start_method": "fork", "verbose": False}
        litdata.optimize(make, inputs, str(folder / name), **settings)

    def decode() -> Iterator[object]:
        for sample in litdata.StreamingDataset(str(folder / "images")):
            yield sample["jpg"], json.loads(bytes(sample["json"]))

    return Reader("litdata", lambda: litdata.StreamingDataset(str(folder / "bytes")), decode, "torchvision")


def _as_bytes(sample: tuple[str, bytes]) -> dict[str, bytes]:
    return {"jpg": Path(sample[0]).read_bytes(), "json": sample[1]}


def _as_image(sample: tuple[str, bytes]) -> dict[str, Any]:
    return {"jpg": Image.open(sample[0]), "json": sample[1]}


def _spdl(tars: Sequence[str]) -> Reader:
    if not find_spec("spdl"):
        return Reader("spdl", note=INSTALL)
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

    def decode() -> Iterator[object]:
        for sample in read():
            yield spdl.io.to_torch(spdl.io.load_image(sample["jpg"])), json.loads(sample["json"])

    try:
        next(iter(decode()))
    except RuntimeError:
        return Reader("spdl", read, note="its decoder needs FFmpeg's libavutil, which is not installed")
    return Reader("spdl", read, decode, "FFmpeg")


def _grain(photos: Photos, folder: Path) -> Reader:
    if not (find_spec("grain") and find_spec("array_record")):
        return Reader("grain", note=INSTALL)
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

    def decoded(record: bytes) -> object:
        sample = pickle.loads(record)
        return rgb(sample["jpg"]), json.loads(sample["json"])

    return Reader("grain", lambda: read(pickle.loads), lambda: read(decoded), "torchvision, for want of its own")


def _coco_detection(photos: Photos, annotations: Path) -> Reader:
    """Torchvision's dataset of single files. Its labels are in memory from the beginning."""
    images = [{"id": number, "file_name": path.name} for number, path in enumerate(photos.paths)]
    box = {"bbox": [12.25, 34.5, 200.75, 180.5], "category_id": 1, "iscrowd": 0, "area": 36235.4}
    boxes = [box | {"id": 7 * each["id"] + n, "image_id": each["id"]} for each in images for n in range(7)]  # type: ignore[operator]
    annotations.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1}]}))
    with redirect_stdout(None):  # pycocotools prints its progress
        dataset = CocoDetection(str(photos.paths[0].parent), str(annotations), transform=pil_to_tensor)
    note = "has no way to read an image without decoding it"
    return Reader("CocoDetection", None, lambda: (dataset[n] for n in range(len(dataset))), "Pillow", note)


PARTS = ("writing", "reading", "decoding", "map")
TAR_BYTES = 2**26
READ_TOGETHER = 8
UNIT = "images/CPU-s"
SAMPLES_PER_TAR = 1000
NEAR, FAR, SKIPPED = 10, 10_000_000, 5000
"""Places of the stream where it is resumed, and the samples that webdataset skips."""
BATCH = 10


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
    table = write_shards(folder, photos.samples(), TAR_BYTES)
    tars = sorted(folder.glob("*.tar"))
    for tar in tars:
        write_index(tar, table.filter(pc.equal(table["shard"], tar.name)))
    return [ShardFile(str(tar), index_path(tar)) for tar in tars]


def write_mapped(photos: Photos, folder: Path) -> SampleMap:
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


class Reading:
    """Our stream and its peers on the same images."""

    def __init__(self, photos: Photos, folder: Path, rounds: int) -> None:
        self._photos, self._rounds = photos, rounds
        self._samples = write_mapped(photos, folder / "ours")
        self._peers = peers(photos, self._samples.tars, folder)

    def plain(self) -> Iterator[Row]:
        """Compares reading bytes. Ours compares each member with its checksum."""
        ways = {"ours": self._stream} | {peer.name: peer.read for peer in self._peers if peer.read}
        seconds = self._seconds(ways)
        for peer in self._peers:
            if peer.name not in seconds:
                yield Row(f"reading / {peer.name}", note=peer.note)
                continue
            yield Row(f"reading / {peer.name}", UNIT, 1 / seconds["ours"], 1 / seconds[peer.name])

    def decoded(self) -> Iterator[Row]:
        """Compares reading images decoded to bytes of red, green and blue, and their labels."""
        members = [dict(sample.members) for sample in self._photos.samples()]
        ways = {"ours": lambda: map(_decoded, self._stream()), "bare": lambda: map(_decoded, members)}
        ways |= {peer.name: peer.decode for peer in self._peers if peer.decode}
        speeds = {name: 1 / seconds for name, seconds in self._seconds(ways).items()}
        yield Row("decoding / bare loop over bytes in memory", UNIT, speeds["ours"], speeds["bare"])
        for peer in self._peers:
            if peer.name in speeds:
                yield Row(f"decoding / {peer.name}: {peer.decoder}", UNIT, speeds["ours"], speeds[peer.name])
            else:
                yield Row(f"decoding / {peer.name}", note=peer.note)

    def _stream(self) -> Stream:
        return Stream(self._samples, batch=READ_TOGETHER, epochs=1)

    def _seconds(self, ways: Mapping[str, Callable[[], Iterable[object]]]) -> dict[str, float]:
        """Returns CPU-seconds per image."""
        best = best_of({name: partial(_exhaust, way) for name, way in ways.items()}, self._rounds)
        return {name: seconds / len(self._photos) for name, seconds in best.items()}


def _exhaust(way: Callable[[], Iterable[object]]) -> int:
    return sum(1 for _ in way())


def _decoded(sample: dict[str, bytes]) -> tuple[Tensor, object]:
    return rgb(sample["jpg"]), json.loads(sample["json"])


def measure_large_map(photos: Photos, folder: Path, tars: int, rounds: int) -> Iterator[Row]:
    """Yields what processes that begin anew need."""
    shards = linked_tars(photos.first(SAMPLES_PER_TAR).samples(), folder, tars)
    samples = write_sample_map(folder / "map", shards)
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
    ids = table["image_id"].to_numpy() + start
    keys = [f"coco-{number:012d}" for number in ids.tolist()]
    for name, column in {"shard": np.full(len(table), tar), "key": keys, "image_id": ids}.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(column))
    return table


def measure(given: Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as the engine's workers do; it speeds up the peers too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_photos(given.shared / "data/coco/sample2017", folder / "images", given.megabytes)
        yield Row("images", "", len(photos), note=f"{photos.megabytes:.0f} MB: {photos.origin}")
        if "writing" in given.parts:
            yield from compare_writing(photos, folder / "writing", given.rounds)
        if "reading" in given.parts:
            yield from Reading(photos, folder / "reading", given.rounds).plain()
        if "decoding" in given.parts:
            # A few per cent count here, so that it needs more turns.
            few = photos.first(given.decoded)
            yield from Reading(few, folder / "decoding", 3 * given.rounds).decoded()
        if "map" in given.parts:
            yield from measure_large_map(photos, folder / "large", given.tars, given.rounds)


if __name__ == "__main__":
    options = parser(__doc__)
    shared = Path(os.environ.get("RLIP_SHARED", "../shared"))
    options.add_argument("--shared", type=Path, default=shared, help="folder with data/coco; noise without it")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--megabytes", type=float, default=200, help="size of all images")
    options.add_argument("--decoded", type=int, default=188, help="number of images to decode")
    options.add_argument("--tars", type=int, default=2000, help="tars of 1,000 samples in the large map")
    options.add_argument("--rounds", type=int, default=5, help="number of turns; the best of each counts")
    run(options, measure)
