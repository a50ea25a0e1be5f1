"""Index files of other loaders of WebDataset tars: wids and Megatron-Energon. All are made from this project's own index."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from storage.errors import FatalError

LoaderIndex = Literal["wids", "energon"]
WIDS_FILE = "wids.json"
ENERGON_FOLDER = ".nv-meta"
_BLOCK = 512


def loaders(names: Sequence[str]) -> list[LoaderIndex]:
    """Returns the loaders of those names, each once. Raises `FatalError` for an unknown one."""
    known: tuple[LoaderIndex, ...] = get_args(LoaderIndex)
    for name in names:
        if name not in known:
            raise FatalError(f"{name!r}: no such loader; {' or '.join(known)} is one")
    return [each for each in known if each in names]


def index_files(kind: LoaderIndex, tars: Mapping[str, pa.Table], sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Returns the files that a loader needs, by their path beside the tars.

    `tars`: a tar's path, relative to the folder that the files go to → its index (schema `SHARD_MEMBERS`); `sizes`: the same
    path → the tar's bytes. The tars must hold nothing but what their indexes list, since these loaders read whatever they find.
    """
    if kind == "wids":
        return {WIDS_FILE: wids_index(tars, sizes)}
    return energon_files(tars)


def wids_index(tars: Mapping[str, pa.Table], sizes: Mapping[str, int]) -> bytes:
    """Returns the list of shards that `wids.ShardListDataset` opens. It finds the tars beside the file or its URL."""
    shards = [
        {"url": tar, "nsamples": len(_first_members(index)), "filesize": sizes[tar]} for tar, index in tars.items()
    ]
    values = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    return json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"


def energon_files(tars: Mapping[str, pa.Table]) -> dict[str, bytes]:
    """Returns what Energon 7 needs to stream the tars as its split "train", with the members of a sample as they are.

    These are `.nv-meta/.info.json`, `split.yaml` and `dataset.yaml`, and a `.tar.idx` beside each tar. The `index.sqlite` that
    `energon prepare` writes as well serves look-ups by key, e.g. of joined datasets, so it is left out.
    """
    counts = {tar: len(_first_members(index)) for tar, index in tars.items()}
    # Strings of JSON are strings of YAML, so that names need no quoting of their own.
    split = "".join(f"  - {json.dumps(tar)}\n" for tar in tars)
    return {
        f"{ENERGON_FOLDER}/.info.json": json.dumps({"shard_counts": counts}, indent=1).encode() + b"\n",
        f"{ENERGON_FOLDER}/split.yaml": f"split_parts:\n  train:\n{split}exclude: []\n".encode(),
        f"{ENERGON_FOLDER}/dataset.yaml": b"__module__: megatron.energon\n__class__: CrudeWebdataset\n",
        **{f"{tar.removesuffix('.tar')}.tar.idx": energon_tar_index(index) for tar, index in tars.items()},
    }


def energon_tar_index(index: pa.Table) -> bytes:
    """Returns Energon's index of one tar: where the header of each sample's first member begins, and where the last ends.

    These are unsigned 64-bit integers, little-endian. A header may take several blocks before a member's bytes, so a sample
    begins where the one before it ends.
    """
    ends = index["offset"].to_numpy() + index["size"].to_numpy()
    ends = -(-ends // _BLOCK) * _BLOCK
    firsts = _first_members(index)
    starts = [0, *ends[firsts[1:] - 1].tolist()] if len(firsts) else []
    places = [*starts, int(ends[-1]) if len(ends) else 0]
    return struct.pack(f"<{len(places)}Q", *places)


def _first_members(index: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns the rows of an index that begin a sample."""
    keys = index["key"].to_numpy()
    if not len(keys):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
