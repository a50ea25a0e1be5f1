"""The samples of any number of shards in one memory-mapped folder that all processes of a machine share.

The folder holds arrays of fixed-size records (`samples.bin`, `members.bin`), the keys (`keys.bin`), and `map.json`.
Opening it reads `map.json` alone, whatever the number of samples.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from xxhash import xxh3_128

from storage.atomic import atomic_folder
from storage.errors import FatalError
from storage.json_files import read_json, sealed_json
from storage.shards.index import read_index_file

FORMAT = 1
_PARTS = ("samples", "members", "keys")
MAX_MEMBERS = 1000
"""Maximum number of members of a sample: more are just files that share the beginning of their names."""
_SAMPLE = np.dtype(
    [
        ("first", "<i8"),
        ("key", "<i8"),
        ("identity", "<u8"),
        ("shard", "<i4"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("members", "<i2"),
        ("set", "<i2"),
    ]
)
"""`first`: its first member; `key`: where its key ends in keys.bin; `set`: its dataset, by number."""
_MEMBER = np.dtype([("offset", "<i8"), ("size", "<i8"), ("check", "V16"), ("extension", "<i2")])
MAX_EXTENSIONS = 2**15
MAX_DATASETS = 2**15
NAMED = 5
"""Number of tars that an error lists."""
Keep = Callable[[pa.Table], NDArray[np.bool_]]
"""Chooses samples of a shard, given the index rows of their first members."""


@dataclass(frozen=True)
class ShardFile:
    """A tar, by path or URL, and its index, the rows of which may belong to several tars."""

    tar: str
    index: Path
    name: str = ""
    """The tar's name in the index; the file name of `tar` if empty."""


class MemberPlace(NamedTuple):
    """Where a member's bytes are in its tar, and their 128-bit XXH3."""

    extension: str
    offset: int
    size: int
    check: bytes


def write_sample_map(
    folder: Path, shards: Iterable[ShardFile], keep: Keep | None = None, *, replace: bool = True
) -> SampleMap:
    """Makes the map of all samples, or of those that `keep` chooses, in the order of the shards. Memory is that of one
    shard. Without `replace`, a map that is in the folder by the end stays.

    Raises `FatalError` for an index that is damaged, has impossible places or is of other tars, and for a repeated tar.
    """
    seen: set[tuple[str, str]] = set()
    with atomic_folder(folder, replace=replace) as aside, _Writer(aside) as writer:
        read: tuple[Path, dict[str, pa.Table]] | None = None
        for shard in shards:
            if read is None or read[0] != shard.index:
                read = shard.index, _by_tar(shard.index)
            name = shard.name or shard.tar.rpartition("/")[2]
            if (shard.tar, name) in seen:
                raise FatalError(f"{shard.tar}: listed twice; list each tar once")
            seen.add((shard.tar, name))
            if name in read[1]:
                writer.add(shard, read[1][name], keep)
            elif read[1]:
                shown = [each if each.isprintable() else repr(each) for each in list(read[1])[:NAMED]]
                names = ", ".join(shown + ["…"] * (len(read[1]) > NAMED))
                raise FatalError(f"{shard.index}: is the index of {names}, not of {name}; index {shard.tar} again")
    return SampleMap(folder)


def _by_tar(path: Path) -> dict[str, pa.Table]:
    """Tar → its rows of an index, which must be contiguous."""
    index = read_index_file(path)
    tars = pc.run_end_encode(index["shard"].combine_chunks(), run_end_type=pa.int64())
    ends = tars.run_ends.to_pylist()
    begins = [0, *ends][: len(ends)]
    found = {
        name: index.slice(begin, end - begin)
        for name, begin, end in zip(tars.values.to_pylist(), begins, ends, strict=True)
    }
    if len(found) < len(ends):
        raise FatalError(f"{path}: rows of one tar are not contiguous; rebuild the index")
    return found


class SampleMap:
    """The samples of many shards, by number. It is picklable: another process maps the same memory."""

    def __init__(self, folder: Path) -> None:
        """Raises `FatalError` when the folder holds no whole map of this version."""
        self.folder = folder
        try:
            about = read_json(folder / "map.json", dict[str, Any], "remove the folder and run again")
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']}, but this version reads {FORMAT}")
            self.fingerprint: str = about["fingerprint"]
            """Digest of everything that decides which samples there are and in what order. Paths are not part of it."""
            self.tars: list[str] = about["tars"]
            self.ends: list[int] = about["ends"]
            """The offset after the last member of each tar; 0 for a tar without samples."""
            self.datasets: list[str] = about["datasets"]
            self._extensions: list[str] = about["extensions"]
            self._samples = _mapped(folder / "samples.bin", _SAMPLE, about["samples"])
            self.identities: NDArray[np.uint64] = self._samples["identity"]
            """A number for each sample that follows from its key alone."""
            self.widths: NDArray[np.int32] = self._samples["width"]
            """The width of each sample's image in pixels; 0 where it is unknown."""
            self.heights: NDArray[np.int32] = self._samples["height"]
            self.sets: NDArray[np.int16] = self._samples["set"]
            """The dataset of each sample, as its place in `datasets`."""
            self._members = _mapped(folder / "members.bin", _MEMBER, about["members"])
            self._keys = _mapped(folder / "keys.bin", np.dtype("u1"), about["key_bytes"])
            self._checks: dict[str, str] = about.get("checks", {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FatalError(
                f"{folder}: not a complete sample map ({error}); remove the folder and run again"
            ) from error

    def require_whole(self) -> None:
        """Read the files again. Raises `FatalError` if one has changed or its map has no checksums."""
        for name in _PARTS:
            with (self.folder / f"{name}.bin").open("rb") as file:
                found = hashlib.file_digest(file, xxh3_128).hexdigest()
            if found != self._checks.get(name):
                raise FatalError(
                    f"{self.folder}/{name}.bin: changed since it was written; remove the folder and run again"
                )

    def __len__(self) -> int:
        return len(self._samples)

    def __reduce__(self) -> tuple[type[SampleMap], tuple[Path]]:
        return SampleMap, (self.folder,)

    def key(self, sample: int) -> str:
        """The key of a sample."""
        start = int(self._samples["key"][sample - 1]) if sample else 0
        return bytes(self._keys[start : int(self._samples["key"][sample])]).decode()

    def shard(self, sample: int) -> int:
        """The tar of a sample, as its place in `tars`."""
        return int(self._samples["shard"][sample])

    def members(self, sample: int) -> list[MemberPlace]:
        """The members of a sample, in the order of its tar."""
        first, count = int(self._samples["first"][sample]), int(self._samples["members"][sample])
        return [
            MemberPlace(self._extensions[extension], offset, size, check)
            for offset, size, check, extension in self._members[first : first + count].tolist()
        ]


class _Writer:
    """Appends the samples of one shard after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._digest = hashlib.sha256()
        self._checks = {name: xxh3_128() for name in _PARTS}
        self._tars: list[str] = []
        self._ends: list[int] = []
        self._extensions: dict[str, int] = {}
        self._datasets: dict[str, int] = {}
        self._counts = {"samples": 0, "members": 0, "key_bytes": 0}

    def __enter__(self) -> _Writer:
        for name in _PARTS:
            self._files[name] = (self._folder / f"{name}.bin").open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            names = {"extensions": list(self._extensions), "datasets": list(self._datasets)}
            self._digest.update(json.dumps([FORMAT, names]).encode())
            about = {"format": FORMAT, "fingerprint": self._digest.hexdigest(), "tars": self._tars, "ends": self._ends}
            checks = {name: check.hexdigest() for name, check in self._checks.items()}
            (self._folder / "map.json").write_bytes(sealed_json(about | names | self._counts | {"checks": checks}))

    def add(self, shard: ShardFile, rows: pa.Table, keep: Keep | None) -> None:
        """Adds the samples of a tar. `rows`: its part of the index."""
        number = len(self._tars)
        self._tars.append(shard.tar)
        self._ends.append(0)
        rows = rows.combine_chunks()
        keys = rows["key"].to_numpy(zero_copy_only=False)
        if not len(keys):
            return
        firsts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        if len(set(keys[firsts])) != len(firsts):
            raise FatalError(
                f"{shard.index}: members of one sample are not contiguous in {shard.tar}; rebuild the index"
            )
        counts = np.diff(np.r_[firsts, len(keys)])
        if counts.max() > MAX_MEMBERS:
            raise FatalError(
                f"{shard.index}: a sample in {shard.tar} has {counts.max()} members, more than {MAX_MEMBERS}"
            )
        chosen = np.ones(len(firsts), bool) if keep is None else keep(rows.take(firsts))
        members = _members(rows, self._extensions, shard)[np.repeat(chosen, counts)]
        firsts, counts = firsts[chosen], counts[chosen]
        self._ends[-1] = int((members["offset"] + members["size"]).max(initial=0))
        encoded = [str(key).encode() for key in keys[firsts]]
        samples = np.zeros(len(firsts), _SAMPLE)
        samples["first"] = self._counts["members"] + np.cumsum(counts) - counts
        samples["key"] = self._counts["key_bytes"] + np.cumsum([len(key) for key in encoded], dtype=np.int64)
        samples["identity"] = [identity(key) for key in encoded]
        samples["shard"], samples["members"] = number, counts
        for side in ("width", "height"):
            samples[side] = rows[side].fill_null(0).to_numpy()[firsts]
        names = rows["dataset"].fill_null("").to_numpy(zero_copy_only=False)[firsts]
        sets = [self._datasets.setdefault(str(name), len(self._datasets)) for name in names]
        if len(self._datasets) > MAX_DATASETS:
            raise FatalError(f"{shard.index}: more than {MAX_DATASETS} datasets; put the images into fewer")
        samples["set"] = sets
        parts = {"samples": samples.tobytes(), "members": members.tobytes(), "keys": b"".join(encoded)}
        for name, data in parts.items():
            self._files[name].write(data)
            self._digest.update(data)
            self._checks[name].update(data)
        added = {"samples": len(samples), "members": len(members), "key_bytes": len(parts["keys"])}
        self._counts = {name: count + added[name] for name, count in self._counts.items()}


def _members(rows: pa.Table, extensions: dict[str, int], shard: ShardFile) -> NDArray[np.void]:
    members = np.zeros(len(rows), _MEMBER)
    members["offset"], members["size"] = rows["offset"].to_numpy(), rows["size"].to_numpy()
    numbers = [extensions.setdefault(name, len(extensions)) for name in rows["extension"].to_pylist()]
    if len(extensions) > MAX_EXTENSIONS:
        raise FatalError(f"{shard.index}: more than {MAX_EXTENSIONS} extensions; name members KEY.EXTENSION")
    members["extension"] = numbers
    try:
        checks = b"".join(bytes.fromhex(check) for check in rows["check"].to_pylist())
    except ValueError:
        checks = b""
    if len(checks) != 16 * len(rows):
        raise FatalError(f"{shard.index}: its checksums are not 128-bit XXH3; rebuild the index")
    members["check"] = np.frombuffer(checks, "V16")
    return members


def identity(key: bytes) -> int:
    """A 64-bit number that follows from a sample's key alone."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def _mapped(path: Path, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    """A file as a read-only array that takes no memory of the process. Raises ValueError when its size differs."""
    size = count * kind.itemsize
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
    if not size:
        # An empty file can't be mapped.
        return np.zeros(0, kind)
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), kind)
