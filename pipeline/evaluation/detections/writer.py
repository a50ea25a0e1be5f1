"""Writes detections image by image: as Parquet, or as JSON with one object a line for a path that ends in .json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import atomic_file
from storage.errors import FatalError
from storage.tables import DETECTIONS

ROW_GROUP = 1000
"""Images that are held in memory and make a row group."""


class DetectionsWriter:
    """A context: rows are streamed to a file aside, which takes its place when the context ends without an error."""

    def __init__(self, path: Path, row_group: int = ROW_GROUP) -> None:
        """Raises `FatalError` for a folder, and for a name that ends neither in .parquet nor in .json."""
        if path.suffix not in (".parquet", ".json") or path.is_dir():
            raise FatalError(f"{path}: detections are written to a file; choose a name that ends in .parquet or .json")
        self._path, self._row_group = path, row_group
        self._rows: list[Mapping[str, Any]] = []
        self._contexts = ExitStack()
        self._table: pq.ParquetWriter | None = None
        self._text: Any = None

    def __enter__(self) -> DetectionsWriter:
        aside = self._contexts.enter_context(atomic_file(self._path))
        if self._path.suffix == ".parquet":
            self._table = self._contexts.enter_context(pq.ParquetWriter(aside, DETECTIONS, compression="zstd"))
        else:
            self._text = self._contexts.enter_context(aside.open("w", encoding="utf-8"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._contexts.pop_all() as contexts:
            if error is None:
                self._flush()
            else:
                contexts.__exit__(kind, error, trace)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds an image: a row of the table `DETECTIONS`. Raises `FatalError` for a score or a side that is not finite."""
        numbers = [box[name] for box in row["boxes"] for name in ("score", "x", "y", "w", "h")]
        numbers += [pair["score"] for pair in row["pairs"]]
        if not all(map(math.isfinite, numbers)):
            raise FatalError(
                f"{self._path}: image {row['uri']!r} has scores or boxes that are not finite; check the weights"
            )
        self._rows.append(row)
        if len(self._rows) >= self._row_group:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._rows, schema=DETECTIONS)
        self._rows = []
        if self._table is not None and len(table):
            self._table.write_table(table, row_group_size=self._row_group)
        if self._text is not None:
            self._text.writelines(json.dumps(_short(row), ensure_ascii=False) + "\n" for row in table.to_pylist())


def _short(value: Any) -> Any:
    """The value with each float as the shortest decimal that rounds to the same float32."""
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value
