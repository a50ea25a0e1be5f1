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

    def ends(self) -> tuple[Indices, Indices]:
        """Subject and object of every item, a relation or pair."""
        return self.numbers("subject").astype(np.int64), self.numbers("object").astype(np.int64)

    def coded(self, field: str) -> tuple[list[str], Indices]:
        """The distinct texts of a field, and for every item the index of its text."""
        encoded = self.fields.field(field).dictionary_encode()
        return encoded.dictionary.to_pylist(), np.asarray(encoded.indices, np.int64)

    def where(self, chosen: npt.NDArray[np.bool_]) -> FlatList:
        """The items for which `chosen` (N) is true."""
        return self if chosen.all() else FlatList(self.row[chosen], self.fields.filter(pa.array(chosen)))

    def each(self, *fields: str) -> Iterator[tuple[Any, ...]]:
        """Row and fields of every item, as Python values."""
        return zip(self.row.tolist(), *map(self.values, fields), strict=True)

    def starts(self, rows: int) -> Indices:
        """For each of the first `rows` rows, the index of its first item, or of the next item if it has none.

        `rows` may be one more than the table has.
        """
        return np.searchsorted(self.row, np.arange(rows), side="left")

    def xywh(self) -> npt.NDArray[np.float64]:
        """Top-left corner and size of every item, a box (N, 4)."""
        return np.stack([self.numbers(side).astype(np.float64) for side in "xywh"], axis=1)


def rows_of(images: pa.Table, table: pa.Table) -> Indices:
    """Row of `table` → row of `images` with the same image id; -1 for an image that was not ingested again."""
    places = pc.index_in(table["image_id"], value_set=images["image_id"]).fill_null(-1)
    found: Indices = places.to_numpy().astype(np.int64)
    return found
