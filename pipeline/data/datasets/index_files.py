"""The files of a record index: each line, name and number is compared with its checksum when it is read.

`records` holds one JSON line per image, `names` the names of images, `lost` the rejects, and `places.npy` five numbers per
image: its id, where line and name begin, and the XXH3 of each. `seal` is the XXH3 of `places.npy` and `lost`.
"""

from __future__ import annotations

import io
import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_digest, xxh3_128_digest

from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record import ImageRecord
from storage.disk import LOCAL

_FILES = ("records", "names", "places.npy", "lost", "seal")


class DamagedIndex(Exception):
    """A file of an index is missing or does not match its checksum."""


class IndexFiles:
    """The files of a stored index. Raises `DamagedIndex` here and wherever something is read."""

    def __init__(self, folder: Path) -> None:
        try:
            numbers, lost, seal = ((folder / name).read_bytes() for name in ("places.npy", "lost", "seal"))
            self._records, self._names = ((folder / name).open("rb") for name in ("records", "names"))
        except OSError as error:
            raise DamagedIndex(f"{Path(error.filename).name}: {error.strerror}") from error
        if _seal(numbers, lost) != seal:
            raise DamagedIndex("places.npy or lost do not match their checksum")
        places: npt.NDArray[np.int64] = np.load(io.BytesIO(numbers), allow_pickle=False)
        self.ids = places[0, :-1]
        self.lost: list[list[Any]] = json.loads(lost)
        """Image id, reason and value of each reject."""
        self._starts, self._name_starts, self._checks, self._name_checks = places[1:]

    def line(self, position: int) -> bytes:
        """The values of a record, as a JSON array."""
        return _read(self._records, self._starts, self._checks, position)

    def name(self, position: int) -> str:
        """The name of an image."""
        return _read(self._names, self._name_starts, self._name_checks, position).decode()

    def require_whole(self) -> None:
        """Read everything once."""
        for position in range(len(self.ids)):
            self.line(position)
            self.name(position)
        for file, starts in ((self._records, self._starts), (self._names, self._name_starts)):
            if os.fstat(file.fileno()).st_size != starts[-1]:
                raise DamagedIndex(f"{Path(file.name).name}: has another size than when it was written")


def write_index(reader: Reader, folder: Path) -> None:
    """Write the files of an index into an empty folder, and sync them."""
    places = array("q")
    with (folder / "records").open("wb", 2**20) as records, (folder / "names").open("wb", 2**20) as names:
        start = name_start = 0
        for record in reader.read():
            line, name = _line(record), reader.name(record).encode()
            places.extend((record.image_id, start, name_start, _check(line), _check(name)))
            start += records.write(line)
            name_start += names.write(name)
        places.extend((0, start, name_start, 0, 0))
    columns = np.frombuffer(places, np.int64).reshape(-1, 5).T
    np.save(folder / "places.npy", np.ascontiguousarray(columns), allow_pickle=False)
    lost = json.dumps([[reject.image_id, reject.reason, reject.value] for reject in reader.rejects]).encode()
    (folder / "lost").write_bytes(lost)
    (folder / "seal").write_bytes(_seal((folder / "places.npy").read_bytes(), lost))
    for file in _FILES:
        LOCAL.sync_file(folder / file)


def damaged_indexes(indexes: Path) -> Iterator[tuple[Path, str]]:
    """Read every index in a folder of indexes. Yields each folder with what is wrong with it, "" where nothing is.

    Indexes of earlier versions, which are never read again, are left out.
    """
    for seal in sorted(indexes.glob("*/seal")):
        try:
            IndexFiles(seal.parent).require_whole()
            yield seal.parent, ""
        except DamagedIndex as damage:
            yield seal.parent, str(damage)


def _read(file: BinaryIO, starts: npt.NDArray[np.int64], checks: npt.NDArray[np.int64], position: int) -> bytes:
    start = int(starts[position])
    data = os.pread(file.fileno(), int(starts[position + 1]) - start, start)
    if _check(data) != checks[position]:
        raise DamagedIndex(f"{Path(file.name).name}: what lies at byte {start:,} does not match its checksum")
    return data


def _check(data: bytes) -> int:
    return int.from_bytes(xxh3_64_digest(data), "little", signed=True)


def _seal(numbers: bytes, lost: bytes) -> bytes:
    return xxh3_128_digest(xxh3_128_digest(numbers) + xxh3_128_digest(lost))


def _line(record: ImageRecord) -> bytes:
    rejects = [(reject.reason, reject.value) for reject in record.rejects]
    values = (
        record.image_id,
        record.width,
        record.height,
        record.boxes,
        record.relations,
        rejects,
        record.unpublished,
    )
    return json.dumps(values).encode("ascii") + b"\n"
