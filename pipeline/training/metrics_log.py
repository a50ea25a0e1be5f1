"""The log of a training run's metrics: one JSON line per value, each step exactly once even after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic_core import from_json

from storage.atomic import write_atomic
from storage.tables import METRICS


class MetricsLog:
    """Appends metrics to a file. `rewind` removes those after a step, because a resumed training run repeats them.

    What a full disk does not take is kept in memory, and written later.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._unwritten, self._torn = path, "", False

    def rewind(self, step: int) -> None:
        """Keeps only the values of the first `step` steps."""
        kept = [row for row in self._rows() if row["step"] <= step]
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values measured at a step, now or later."""
        lines = (json.dumps({"step": step, "name": name, "value": value}) for name, value in values.items())
        self._unwritten += "".join(f"{line}\n" for line in lines)
        with suppress(OSError):  # `sync` raises it, before a checkpoint
            self._append(sync=False)

    def sync(self) -> None:
        """Forces all values to disk. Call it before a checkpoint is written, so that its metrics are never lost.

        Raises OSError when some aren't written.
        """
        self._append(sync=True)

    def _append(self, sync: bool) -> None:
        start = "\n" if self._torn else ""  # what a failed write left becomes a separate line
        self._torn = True
        with self._path.open("a") as file:
            file.write(start + self._unwritten)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        self._unwritten, self._torn = "", False

    def table(self) -> pa.Table:
        """Returns all values by step and name (schema METRICS). A value measured again after a crash counts once."""
        rows = {(row["step"], row["name"]): row for row in self._rows()}
        return pa.Table.from_pylist([rows[place] for place in sorted(rows)], schema=METRICS)

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not self._path.is_file():
            return
        for line in self._path.read_text().splitlines():
            try:
                yield from_json(line)
            except ValueError:
                continue  # torn by a crash or a full disk; what was in it is written again
