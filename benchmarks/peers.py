"""Other libraries' readers of the same samples, as far as they are installed."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import webdataset
from PIL import Image
from torch import Tensor
from torchvision.datasets import CocoDetection
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.photos import Photos

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
        _webdataset(tars),
        _litdata(photos, folder / "litdata"),
        _spdl(tars),
        _grain(photos, folder / "grain"),
        _coco_detection(photos, folder / "annotations.json"),
    ]


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
