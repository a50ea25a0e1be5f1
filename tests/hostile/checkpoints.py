"""Weights: safetensors of this project, and checkpoints of others, most of which are pickles."""

import argparse
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.hostile.case import Case, Make, sparse, table, told, written


class Runs:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self._call = function, given

    def __reduce__(self) -> Any:
        return self._call


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def own(network: str, **tensors: Any) -> bytes:
    """Weights whose metadata hold a network's configuration."""
    return safetensors({"__metadata__": {"network": network}, **tensors})


def saved(content: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def edited(data: bytes, change: Callable[[dict[str, bytes]], None], **options: Any) -> bytes:
    """A checkpoint whose zip was unpacked, changed and packed again."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    change(files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def record(files: dict[str, bytes], end: str) -> str:
    return next(name for name in files if name.endswith(end))


def other_pickle(data: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[record(files, "data.pkl")] = data

    return change


def stretched(size: int) -> bytes:
    """A checkpoint of 1.6 KB whose tensor claims `size` values, all at the same place."""
    tensor = torch.zeros(1).expand(size)
    return saved({"model": {"w": tensor}})


def claiming(values: int) -> bytes:
    """A checkpoint whose storage claims more values than it has."""
    data = saved({"model": {"w": torch.zeros(7)}})

    def change(files: dict[str, bytes]) -> None:
        name = record(files, "data.pkl")
        # K\x07: the integer 7, as the number of values of the storage and as the tensor's size.
        number = b"\x8a\x08" + struct.pack("<q", values)
        files[name] = files[name].replace(b"K\x07", number)

    return edited(data, change)


def flipped(data: bytes) -> bytes:
    """A checkpoint with one bit of a tensor's bytes changed, which the zip's checksum tells."""
    at = data.index(struct.pack("<8f", *[1.5] * 8))
    return data[: at + 3] + bytes([data[at + 3] ^ 1]) + data[at + 4 :]


def of_a_tebibyte(path: Path) -> None:
    path.write_bytes(safetensors({"w": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}))
    os.truncate(path, path.stat().st_size + 2**40)


SOUND = saved({"model": OrderedDict(w=torch.full((8,), 1.5))})
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NOT_READABLE = r"refused: .*weights.*not a readable"
TORCH, TENSORS = "weights.pth", "weights.safetensors"
HOSTILE_CODE = r"refused: .*weights\.pth: contains [\w.]+, which is code, not weights; none of it was run"

FILES: dict[str, tuple[str, tuple[str, Make]]] = {
    "no file": ("refused: .*no (weights|checkpoint) at", (TORCH, lambda path: None)),
    "empty": (NOT_READABLE, (TORCH, b"")),
    "a header of 2^63 bytes": (NOT_READABLE, (TENSORS, safetensors(b"{}", length=2**63))),
    "a header of lists within lists": (NOT_READABLE, (TENSORS, safetensors(b'{"w": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"))),
    "a tensor of 4e13 bytes": (NOT_READABLE, (TENSORS, safetensors({"w": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4 * 10**13]}}))),
    "offsets that overlap": (NOT_READABLE, (TENSORS, safetensors({"a": F32, "b": F32}, bytes(8)))),
    "metadata that are null": ("passed|refused", (TENSORS, safetensors({"__metadata__": None, "w": F32}, bytes(8)))),
    "a network of 5,000 digits": (r"refused: .*weights\.safetensors: invalid network configuration", (TENSORS, own('{"width": ' + "1" * 5000 + "}"))),
    "a network with an unknown setting": (r"refused: .*weights\.safetensors: invalid network configuration", (TENSORS, own('{"colour": "red"}'))),
    "a network of 10^9 layers": (r"refused: .*decoder_layers=1000000000: must be less", (TENSORS, own('{"decoder_layers": 1000000000}'))),
    "a sparse file of 1 TiB": ("passed|refused", (TENSORS, of_a_tebibyte)),
    "pickle: a command": (HOSTILE_CODE, (TORCH, pickle.dumps(Runs(os.system, "touch escaped"), protocol=2))),
    "pickle: a command in args": (HOSTILE_CODE, (TORCH, saved({"model": {}, "args": Runs(os.mkdir, "escaped")}))),
    "pickle: of the latest protocol": ("refused: .*weights.pth", (TORCH, saved({"model": {"w": Runs(os.mkdir, "escaped")}}, pickle_protocol=5))),
    "pickle: a bytearray of 1 GiB": (NOT_READABLE, (TORCH, saved({"model": {"w": Runs(bytearray, 2**30)}}))),
    "pickle: lists within lists": (NOT_READABLE, (TORCH, b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")),
    "pickle: a memo of 4 billion": (NOT_READABLE, (TORCH, b"\x80\x02}r\xff\xff\xff\xff.")),
    "torch: a list": (r"refused: .*contains a list, not a table", (TORCH, saved([1, 2]))),
    "torch: a model that is a list": (r"refused: .*`model` is a list", (TORCH, saved({"model": [1]}))),
    "torch: a model of numbers": (r"refused: .*'w' is a int, not a tensor", (TORCH, saved({"model": {"w": 7}}))),
    "torch: NaN": (r"refused: .*w has NaN", (TORCH, saved({"model": {"w": torch.tensor([float("nan")])}}))),
    "torch: a sparse tensor": (r"refused: .*sparse or quantised", (TORCH, saved({"model": {"w": torch.zeros(9).to_sparse()}}))),
    "torch: a tensor of 10^13 equal values": (r"refused: .*w claims", (TORCH, stretched(10**13))),
    "torch: a storage that claims 10^13 values": (NOT_READABLE, (TORCH, claiming(10**13))),
    "torch: compressed storages": ("refused: .*weights.pth", (TORCH, edited(saved({"model": {"w": torch.zeros(10**6)}}), lambda files: None, compression=zipfile.ZIP_DEFLATED))),
    "torch: a flipped bit": (r"refused: .*weights\.pth: .*(checksum|damaged)", (TORCH, flipped(SOUND))),
    "torch: another pickle": (HOSTILE_CODE, (TORCH, edited(SOUND, other_pickle(pickle.dumps(Runs(os.mkdir, "escaped"), protocol=2))))),
    "torch: cut short": (NOT_READABLE, (TORCH, SOUND[: len(SOUND) // 2])),
    "torch: args of any class": ("(passed|refused): ", (TORCH, saved({"model": {"w": torch.zeros(2)}, "args": argparse.Namespace(hidden_dim="\x1b[2J")}))),
}  # fmt: skip

VOCABULARIES: dict[str, tuple[str, Make]] = {
    "vocabulary: lists within lists": (r"refused: .*vocabulary\.json: damaged", b"[" * 10**5),
    "vocabulary: names that are numbers": (r"refused: .*vocabulary\.json: damaged \(objects", b'{"image_size": 96, "objects": [7]}'),
    "vocabulary: a sparse file of 1 TiB": (r"refused: .*vocabulary\.json: damaged \(more than 67,108,864 bytes\)", sparse()),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Each file, shown and imported, and vocabularies beside weights."""
    yield from table("weights", VOCABULARIES, _used)
    yield from table("weights", FILES, _shown)
    unreadable = {f"import: {name}": ("^refused: ", given) for name, (_, given) in FILES.items()}
    yield from table("weights", dict(list(unreadable.items())[::2]), _imported)


def _used(folder: Path, vocabulary: Make) -> str:
    (folder / "model.safetensors").write_bytes(own("{}"))
    written(folder / "vocabulary.json", vocabulary)
    Image.new("RGB", (32, 32)).save(folder / "image.png")
    return told("predict", folder, folder, "--out", folder / "found.json")


def _shown(folder: Path, given: tuple[str, Make]) -> str:
    name, content = given
    return told("weights", "show", written(folder / name, content))


def _imported(folder: Path, given: tuple[str, Make]) -> str:
    name, content = given
    return told("weights", "import", written(folder / name, content), folder / "ours.safetensors")
