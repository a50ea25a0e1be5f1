"""`rlip shards publish`: writes a run's shards as a folder ready for release, and checks such folders."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.interop.dataset_card import Release, croissant, dataset_card
from storage.artifact import Artifact
from storage.atomic import atomic_folder
from storage.digests import digest_file
from storage.errors import FatalError, translate_os_errors
from storage.runs import Run
from storage.shards.index import write_index
from storage.shards.writer import tars_among
from storage.tables import SHARD_STATISTICS, write_table

LoaderIndex = Literal["wids", "energon"]
CHECKSUMS = "SHA256SUMS"
"""Lists the sha256 of every other file in a published folder, in the format of `sha256sum --check`."""
DATA = "data"
STATISTICS = "statistics"
STEP = "shard:pseudo"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass
class Published:
    """Counts of what was written."""

    run: str
    step: str
    folder: str
    tars: int
    samples: int
    bytes: int
    files: list[str]


def publish_shards(
    run: Run,
    folder: Path,
    step: str = STEP,
    license_: str = "unknown",
    indexes: Sequence[LoaderIndex] = (),
    verdicts: Path | None = None,
) -> Published:
    """Writes the shards of a run's step into a new folder, which appears whole or not at all.

    The tars are exact copies, and the folder depends only on the arguments, the run and the verdicts in their folder
    (`verdicts`; None for the store's own): publishing it again gives the same bytes. Raises `FatalError` for a
    non-empty folder, a step without shards, a damaged artifact, and if another process wrote something else there at
    the same time.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FatalError(f"{folder} already exists; name a new folder, or remove this one")
    if not _LICENSE.fullmatch(license_):
        raise FatalError(
            f"--license {license_!r}: name a licence as the Hugging Face hub does, e.g. cc-by-4.0 or unknown"
        )
    artifacts = _shards_of(run, step)
    with translate_os_errors(f"writing {folder}"), atomic_folder(folder, replace=False) as aside:
        (aside / DATA).mkdir()
        tables, sizes, statistics = _put_tars(aside, artifacts)
        write_table(pa.concat_tables(statistics), aside / f"{STATISTICS}.parquet")
        for kind in indexes:
            for name, data in index_files(kind, tables, sizes).items():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                (aside / name).write_bytes(data)
        release = Release(run, step, artifacts, license_, tables, sizes, pa.concat_tables(statistics), verdicts)
        (aside / "README.md").write_text(dataset_card(release), encoding="utf-8")
        digests = {name: digest_file(aside / name) for name in [*tables, f"{STATISTICS}.parquet"]}
        (aside / "croissant.json").write_text(croissant(release, digests), encoding="utf-8")
        files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
        lines = [f"{digests.get(name) or digest_file(aside / name)}  {name}\n" for name in files]
        (aside / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    _require_written(folder, "".join(lines))
    samples = sum(len(set(index["key"].to_pylist())) for index in tables.values())
    return Published(run.name, step, str(folder), len(tables), samples, sum(sizes.values()), [*files, CHECKSUMS])


def _require_written(folder: Path, checksums: str) -> None:
    """Raises `FatalError` unless the folder has these checksums. An earlier folder stays if it can't be replaced."""
    with translate_os_errors(f"reading {folder}"):
        path = folder / CHECKSUMS
        if path.is_file() and path.read_bytes() == checksums.encode():
            return
        if folder.is_dir() and not any(folder.iterdir()):
            raise FatalError(f"{folder}: this empty folder can't be replaced; name a new folder")
    raise FatalError(f"{folder}: another process has written it at the same time; name a new folder")


def checksum_faults(folder: Path, progress: Callable[[int, int], None]) -> Iterator[tuple[str, str]]:
    """Yields the files of a published folder that differ from its checksums, are missing or were added, with the fault.

    Unlisted hidden files, e.g. of download tools, are ignored. Raises `FatalError` if the checksums can't be read or
    name files outside the folder.
    """
    listed = _checksums(folder)
    there = {name: (folder / name).stat().st_size for name in listed if (folder / name).is_file()}
    total, done = sum(there.values()), 0
    for name, digest in listed.items():
        if name not in there:
            yield name, "is missing"
            continue
        if digest_file(folder / name) != digest:
            yield name, f"does not match {CHECKSUMS}"
        done += there[name]
        progress(done, total)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        if path.is_file() and name not in listed and name != CHECKSUMS and not hidden:
            yield name, f"is not listed in {CHECKSUMS}"


def listed_tars(folder: Path) -> list[Path]:
    """Returns the tars that a published folder should contain. Raises `FatalError` as `checksum_faults` does."""
    return [folder / name for name in _checksums(folder) if name.endswith(".tar")]


def _checksums(folder: Path) -> dict[str, str]:
    """Returns file → expected sha256."""
    path = folder / CHECKSUMS
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise FatalError(f"{path}: can't be read ({error}); copy the folder again") from error
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else None
        if match is None or name is None or name.is_absolute() or ".." in name.parts:
            raise FatalError(f"{path}: line {number} is not a sha256 and a file of this folder; copy the folder again")
        found[match[2]] = match[1]
    return found


def _shards_of(run: Run, step: str) -> dict[str, Artifact]:
    """Partition → artifact with tars, by partition. Raises `FatalError` if there are none."""
    found = run.artifacts(step)
    if run.stage(step) != "shard" or not found:
        shards = ", ".join(sorted(name for name in run.steps() if run.stage(name) == "shard")) or "none"
        raise FatalError(f"run {run.name!r} has no shards of step {step!r}; its steps with shards: {shards}")
    lacking = sorted(run.keys(step).keys() - found.keys())
    if lacking:
        raise FatalError(
            f"run {run.name!r}: the shards of {', '.join(lacking[:5])} are gone; run its recipe again, then publish"
        )
    for partition, artifact in found.items():
        if f"{STATISTICS}.parquet" not in artifact.manifest.files:
            raise FatalError(
                f"run {run.name!r}: the shards of {partition} are from an earlier version; run its recipe again"
            )
    whole = {partition: found[partition] for partition in sorted(found) if tars_among(found[partition].manifest.files)}
    if not whole:
        raise FatalError(f"run {run.name!r}: the shards of step {step!r} contain no image; there is nothing to publish")
    return whole


def _put_tars(
    folder: Path, artifacts: dict[str, Artifact]
) -> tuple[dict[str, pa.Table], dict[str, int], list[pa.Table]]:
    """Writes all tars and their indexes into `data`. Returns each tar's index and size by path, and the statistics."""
    tables: dict[str, pa.Table] = {}
    sizes: dict[str, int] = {}
    statistics: list[pa.Table] = []
    names = _names(list(artifacts))
    for partition, artifact in artifacts.items():
        artifact.require_whole()
        index, counts = artifact.table("shards"), artifact.table(STATISTICS).cast(SHARD_STATISTICS)
        for number, tar in enumerate(tars_among(artifact.manifest.files)):
            name = f"{names[partition]}-{number:03d}.tar"
            # A copy: through a hard link, editing the published tar would damage the store.
            shutil.copyfile(artifact.file(tar), folder / DATA / name)
            own = _renamed(index, tar, name)
            write_index(folder / DATA / name, own)
            tables[f"{DATA}/{name}"], sizes[f"{DATA}/{name}"] = own, artifact.manifest.files[tar].size
            statistics.append(_renamed(counts, tar, name))
    return tables, sizes, statistics


def _names(partitions: Sequence[str]) -> dict[str, str]:
    """Partition → base name of its tars: dataset and number, e.g. `coco-0003` for `coco/0003`."""
    names = {}
    for partition in partitions:
        dataset, _, number = partition.rpartition("/")
        names[partition] = (
            f"{dataset or 'all'}-{int(number):04d}" if number.isdecimal() else partition.replace("/", "-")
        )
    return names


def _renamed(table: pa.Table, shard: str, name: str) -> pa.Table:
    """Returns the rows of one tar under its new name."""
    own = table.filter(pc.equal(table["shard"], shard))
    at = own.schema.get_field_index("shard")
    return own.set_column(at, own.schema.field(at), pa.array([name] * len(own), pa.string()))


WIDS_FILE = "wids.json"
ENERGON_FOLDER = ".nv-meta"
_BLOCK = 512


def loaders(names: Sequence[str]) -> list[LoaderIndex]:
    """Returns the loaders with these names, each once. Raises `FatalError` for an unknown one."""
    known: tuple[LoaderIndex, ...] = get_args(LoaderIndex)
    if unknown := [name for name in names if name not in known]:
        raise FatalError(f"{unknown[0]!r}: no such loader; name {' or '.join(known)}")
    return [each for each in known if each in names]


def index_files(kind: LoaderIndex, tars: Mapping[str, pa.Table], sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Returns the files that a loader needs, by their path next to the tars.

    `tars`: a tar's path relative to the target folder → its index (schema `SHARD_MEMBERS`); `sizes`: that path →
    the tar's bytes. Tars must contain nothing beyond their indexes, since these loaders read whatever they find.
    """
    if kind == "energon":
        return _energon_files(tars)
    # `wids.ShardListDataset` finds the tars relative to this list or its URL.
    shards = [
        {"url": tar, "nsamples": len(_first_members(index)), "filesize": sizes[tar]} for tar, index in tars.items()
    ]
    values = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    return {WIDS_FILE: json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"}


def _energon_files(tars: Mapping[str, pa.Table]) -> dict[str, bytes]:
    """Returns what Energon 7 needs to stream the tars as its split "train", with the members of a sample unchanged.

    They are `.nv-meta/.info.json`, `split.yaml` and `dataset.yaml`, and a `.tar.idx` beside each tar. `energon prepare`
    also writes `index.sqlite` for look-ups by key, e.g. in joined datasets, which streaming does not need.
    """
    counts = {tar: len(_first_members(index)) for tar, index in tars.items()}
    # JSON strings are YAML strings, so names need no other quoting.
    split = "".join(f"  - {json.dumps(tar)}\n" for tar in tars)
    return {
        f"{ENERGON_FOLDER}/.info.json": json.dumps({"shard_counts": counts}, indent=1).encode() + b"\n",
        f"{ENERGON_FOLDER}/split.yaml": f"split_parts:\n  train:\n{split}exclude: []\n".encode(),
        f"{ENERGON_FOLDER}/dataset.yaml": b"__module__: megatron.energon\n__class__: CrudeWebdataset\n",
        **{f"{tar.removesuffix('.tar')}.tar.idx": energon_tar_index(index) for tar, index in tars.items()},
    }


def energon_tar_index(index: pa.Table) -> bytes:
    """Returns Energon's index of one tar: offsets of the header of each sample's first member, and of the last end.

    Offsets are unsigned 64-bit integers, little-endian. A member's header may take several blocks, so a sample begins
    where the previous one ends.
    """
    ends = index["offset"].to_numpy() + index["size"].to_numpy()
    ends = -(-ends // _BLOCK) * _BLOCK
    firsts = _first_members(index)
    starts = [0, *ends[firsts[1:] - 1].tolist()] if len(firsts) else []
    places = [*starts, int(ends[-1]) if len(ends) else 0]
    return struct.pack(f"<{len(places)}Q", *places)


def _first_members(index: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns the index rows at which samples begin."""
    keys = index["key"].to_numpy()
    if not len(keys):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
