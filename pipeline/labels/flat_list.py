"""Flattens nested columns: the items of all images in one sequence, read by field without Python objects per item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FlatList:
    """The N items of a nested column. `row` (N): the table row, and thus the image, of each item."""

    row: Indices
    fields: pa.StructArray

    @classmethod
    def of(cls, table: pa.Table, column: str) -> FlatList:
        """The items of `column`, e.g. the captions of the `captions` table."""
        lists = table[column].combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
        parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
        # Of a sliced table, `values` would also hold the items outside the slice.
        return cls(parents.astype(np.int64), lists.flatten())

    def __len__(self) -> int:
        return len(self.row)

    def values(self, field: str) -> list[Any]:
        """One field of every item, as Python values."""
        found: list[Any] = self.fields.field(field).to_pylist()
        return found

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """One numeric field of every item."""
        found: npt.NDArray[Any] = self.fields.field(field).to_numpy(zero_copy_only=False)
        return found

    def each(self, *fields: str) -> Iterator[tuple[Any, ...]]:
        """Row and fields of every item, as Python values."""
        return zip(self.row.tolist(), *map(self.values, fields), strict=True)

    def by_row(self, rows: int) -> list[slice]:
        """The slice of items for each of the table's `rows` images."""
        ends = np.searchsorted(self.row, np.arange(rows), side="right")
        starts = np.searchsorted(self.row, np.arange(rows), side="left")
        return [slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]
