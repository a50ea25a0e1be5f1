"""A run's tables, each as one Parquet file: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.interop.run_rows import TABLES, RunRows
from pipeline.interop.tally import Tally


def write_parquet(rows: RunRows, folder: Path, threshold: float, tally: Tally) -> None:
    """`images.parquet`, `captions.parquet` and so on, with the partition of each row."""
    for table in (*TABLES.values(), "candidates"):
        writer: pq.ParquetWriter | None = None
        for partition, part in rows.artifact_tables(table):
            named = part.add_column(0, "partition", pa.array([partition] * len(part), pa.string()))
            writer = writer or pq.ParquetWriter(folder / f"{table}.parquet", named.schema, compression="zstd")
            writer.write_table(named)
        if writer is not None:
            writer.close()
