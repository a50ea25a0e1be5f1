"""Reorders annotations from file order to image order on disk, with 20 bytes of memory per annotation."""

from __future__ import annotations

import marshal
import os
import tempfile
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Spill:
    """Stores JSON values of images in any order. Returns those of an image in the order in which they were added.

    All values are added before the first one is returned.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115 - closed by `close`
        self._images = array("q")
        self._starts = array("q", [0])

    def close(self) -> None:
        """Frees the disk space."""
        self._file.close()

    def add(self, image_id: int, value: Any) -> None:
        """Adds a value of an image."""
        self._images.append(image_id)
        # No other process reads the file, so marshal's format may differ between versions of Python.
        self._starts.append(self._starts[-1] + self._file.write(marshal.dumps(value)))

    def counts(self) -> Iterator[tuple[int, int]]:
        """Yields each image id that has values, in ascending order, with their number."""
        image_ids, firsts, _ = self._sorted
        yield from zip(image_ids.tolist(), np.diff(firsts).tolist(), strict=True)

    def of(self, image_id: int) -> Iterator[Any]:
        """Yields the values of an image."""
        image_ids, firsts, order = self._sorted
        place = int(np.searchsorted(image_ids, image_id))
        if place == len(image_ids) or image_ids[place] != image_id:
            return
        for number in order[firsts[place] : firsts[place + 1]].tolist():
            start, end = self._starts[number : number + 2]
            yield marshal.loads(os.pread(self._file.fileno(), end - start, start))

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Image ids in ascending order, where the values of each begin in the order of images, and that order."""
        self._file.flush()
        images = np.asarray(self._images)
        order = np.argsort(images, kind="stable")
        image_ids, firsts = np.unique(images[order], return_index=True)
        return image_ids, np.append(firsts, len(images)), order
