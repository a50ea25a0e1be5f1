"""Numbers by training step, as training stages write them, and thinned for drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact
from storage.manifest import REJECTED_FILE
from storage.tables import METRICS, read_table


@dataclass(frozen=True)
class Series:
    """One named number over training: N steps and N values."""

    name: str
    steps: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def thinned(self, points: int) -> Series:
        """At most `points` points, each the mean of its share of the steps."""
        if len(self.steps) <= points:
            return self
        parts = np.array_split(np.arange(len(self.steps)), points)
        steps = np.array([self.steps[part].mean() for part in parts])
        values = np.array([self.values[part].mean() for part in parts])
        return Series(self.name, steps, values)


def metrics(artifact: Artifact) -> Iterator[pa.Table]:
    """The tables of an artifact that hold numbers by step and name, whatever they are called."""
    for name in sorted(artifact.manifest.files):
        path = artifact.file(name)
        is_table = name.endswith(".parquet") and name != REJECTED_FILE
        if is_table and pq.read_schema(path).names == METRICS.names:
            yield read_table(path, METRICS)


def series(artifact: Artifact) -> list[Series]:
    """Every named number of an artifact in the order of steps; values that are not finite are left out."""
    found = []
    for table in metrics(artifact):
        names = np.array(table["name"].to_pylist(), dtype=object)
        steps = table["step"].to_numpy().astype(np.float64)
        values = table["value"].to_numpy().astype(np.float64)
        for name in dict.fromkeys(names):
            chosen = np.flatnonzero((names == name) & np.isfinite(values))
            order = chosen[np.argsort(steps[chosen], kind="stable")]
            if len(order):
                found.append(Series(str(name), steps[order], values[order]))
    return found
