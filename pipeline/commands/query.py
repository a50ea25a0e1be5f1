"""`rlip query`: SQL over the tables of a run's steps, with DuckDB."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.review.wording import harmless
from storage.errors import Terminal
from storage.manifest import REJECTED_FILE
from storage.open_store import Address, existing_store
from storage.runs import Run, find_run

SHOWN = 100
"""Rows printed on a terminal; `--json` prints all."""
_PARQUET = ".parquet"


def print_query(root: Address, run_name: str, sql: str, as_json: bool) -> None:
    """Print the rows that a query gives."""
    found = query(find_run(existing_store(root), run_name), sql)
    if as_json:
        print(json.dumps(_plain(found.to_pylist()), ensure_ascii=False, default=str))
        return
    made = Table(*map(escape, found.column_names), box=None)
    for row in found.slice(0, SHOWN).to_pylist():
        made.add_row(*(Text(harmless(str(value))) for value in row.values()))
    Console().print(made)
    if len(found) > SHOWN:
        print(f"first {SHOWN} of {len(found)} rows; --json prints all")


def query(run: Run, sql: str) -> pa.Table:
    """The rows of a query over the run's tables; it can read these and no file, address or other store.

    Tables are named as the stages name them (`images`, `relations`, `rejected`), with the step's arm where several steps
    write one (`shards_pseudo`); column `partition` comes with each. Raises `Terminal` on what can't be carried out.
    """
    try:
        import duckdb
    except ImportError as error:
        raise Terminal("rlip query needs DuckDB: pip install 'rlip[query]'") from error
    connection = duckdb.connect(config={"enable_external_access": False, "lock_configuration": True})
    tables = dict(_tables(run))
    for name, dataset in tables.items():
        connection.register(name, dataset)
    try:
        answer = connection.sql(sql)
        if answer is None:
            raise Terminal(f"{sql!r} asks for no rows; e.g. 'select count(*) from {min(tables, default='images')}'")
        result: pa.Table = answer.to_arrow_table()
    except duckdb.Error as error:
        raise Terminal(f"{sql}: {error}; tables of run {run.name!r}: {', '.join(sorted(tables))}") from error
    return result


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: what is no number (NaN, infinity) is null."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tables(run: Run) -> Iterator[tuple[str, ds.Dataset]]:
    """Name → the table over all partitions, read when it is asked for."""
    files: dict[str, dict[str, list[tuple[str, Path]]]] = {}
    for step in run.steps():
        for partition, artifact in run.artifacts(step).items():
            for file in artifact.manifest.files:
                if file.endswith(_PARQUET):
                    by_step = files.setdefault(file.removesuffix(_PARQUET), {})
                    by_step.setdefault(step, []).append((partition, artifact.file(file)))
    for table, by_step in files.items():
        if table == REJECTED_FILE.removesuffix(_PARQUET):
            yield table, _dataset([entry for entries in by_step.values() for entry in entries])
            continue
        for step, entries in by_step.items():
            arm = step.partition(":")[2].replace(":", "_")
            yield (f"{table}_{arm}" if len(by_step) > 1 and arm else table), _dataset(entries)


def _dataset(entries: list[tuple[str, Path]]) -> ds.Dataset:
    """Files of one table as one, with the partition's name in each row."""
    form = ds.ParquetFileFormat()
    files = LocalFileSystem()
    fragments = [
        form.make_fragment(str(path), files, partition_expression=pc.field("partition") == partition)
        for partition, path in entries
    ]
    schema = fragments[0].physical_schema.insert(0, pa.field("partition", pa.string()))
    return ds.FileSystemDataset(fragments, schema, form, files)
