"""Reorders annotations from file order to image order on disk, with a few bytes of memory per annotation."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_BOX = struct.Struct("<qddddqB")
_FAULT = struct.Struct("<qqqqqqB")
_SIZE = _BOX.size
_IS_FAULT = 128


class SpilledBox(NamedTuple):
    """A box as annotated. Whether its category exists is known only at the end of the file."""

    category_id: int
    x: float
    y: float
    w: float
    h: float
    source_id: int
    flags: int


class SpilledFault(NamedTuple):
    """An annotation without a usable box or, if `category_id` is None, without a usable category."""

    category_id: int | None
    value: str


class BoxSpill:
    """Stores annotations in any order; returns those of an image in insertion order. `flags` (below 128) are opaque."""

    def __init__(self, folder: Path | None = None) -> None:
        self._rows = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115 - closed by `close`
        self._texts = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._image_ids = array("q")
        self._order: npt.NDArray[np.uint32] | None = None
        self._ids: npt.NDArray[np.int64] = np.empty(0, np.int64)
        """Distinct image ids in ascending order; `_firsts` holds where the boxes of each start in `_order`."""
        self._firsts: npt.NDArray[np.int64] = np.zeros(1, np.int64)

    def close(self) -> None:
        """Frees the disk space."""
        self._rows.close()
        self._texts.close()

    def add(
        self, image_id: int, category_id: int, box: tuple[float, float, float, float], source_id: int, flags: int
    ) -> None:
        """Adds a box of an image."""
        self._image_ids.append(image_id)
        self._rows.write(_BOX.pack(category_id, *box, source_id, flags))

    def add_fault(self, image_id: int, category_id: int | None, value: str) -> None:
        """Adds an annotation without a usable box or category (None); `value` is the offending value."""
        data = value.encode("utf-8", "surrogatepass")
        row = _FAULT.pack(category_id or 0, self._texts.tell(), len(data), category_id is None, 0, 0, _IS_FAULT)
        self._texts.write(data)
        self._image_ids.append(image_id)
        self._rows.write(row)

    def sort(self) -> None:
        """Ends the insertion; `of` can be called from here on."""
        self._rows.flush()
        self._texts.flush()
        ids = np.frombuffer(self._image_ids, np.int64) if self._image_ids else np.empty(0, np.int64)
        order = np.argsort(ids, kind="stable")
        self._ids, firsts = np.unique(ids[order], return_index=True)
        self._firsts = np.append(firsts, len(ids))
        self._order = order.astype(np.uint32)
        del ids
        self._image_ids = array("q")

    def counts(self) -> Iterator[tuple[int, int]]:
        """Yields each image id that has annotations, in ascending order, with their count."""
        counts = np.diff(self._firsts)
        for start in range(0, len(self._ids), 2**16):
            block = slice(start, start + 2**16)
            yield from zip(self._ids[block].tolist(), counts[block].tolist(), strict=True)

    def of(self, image_id: int) -> list[SpilledBox | SpilledFault]:
        """The annotations of an image, in insertion order."""
        assert self._order is not None, "sort first"
        place = int(np.searchsorted(self._ids, image_id))
        if place == len(self._ids) or self._ids[place] != image_id:
            return []
        positions = self._order[self._firsts[place] : self._firsts[place + 1]].tolist()
        file = self._rows.fileno()
        if positions[-1] - positions[0] == len(positions) - 1:
            data = os.pread(file, _SIZE * len(positions), _SIZE * positions[0])
        else:
            data = b"".join(os.pread(file, _SIZE, _SIZE * position) for position in positions)
        return [
            self._fault(data, at) if data[at + _SIZE - 1] == _IS_FAULT else SpilledBox(*_BOX.unpack_from(data, at))
            for at in range(0, len(data), _SIZE)
        ]

    def _fault(self, data: bytes, at: int) -> SpilledFault:
        category_id, start, length, without, _, _, _ = _FAULT.unpack_from(data, at)
        value = os.pread(self._texts.fileno(), length, start).decode("utf-8", "surrogatepass")
        return SpilledFault(None if without else category_id, value)


class ListSpill:
    """Stores lists of JSON values for images in any order and returns the values of an image in insertion order."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115 - closed by `close`
        self._places: dict[int, list[int]] = {}
        """Offsets of an image's lists in the file, one line per list."""

    def close(self) -> None:
        """Frees the disk space."""
        self._file.close()

    def add(self, image_id: int, values: list[Any]) -> None:
        """Adds a list of values of an image."""
        self._places.setdefault(image_id, []).append(self._file.tell())
        self._file.write(json.dumps(values).encode() + b"\n")

    def of(self, image_id: int) -> Iterator[Any]:
        """Yields the values of an image."""
        for place in self._places.get(image_id, ()):
            self._file.seek(place)
            yield from json.loads(self._file.readline())
