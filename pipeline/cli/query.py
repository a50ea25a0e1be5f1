"""`rlip query`: SQL over the tables of a run's steps, with DuckDB."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.report.formatting import harmless
from storage.errors import FatalError
from storage.manifest import REJECTED_FILE
from storage.open_store import Address, existing_store
from storage.runs import Run, find_run

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SHOWN = 100
"""Rows printed on a terminal; `--json` prints all."""
_BATCH = 10_000
_PARQUET = ".parquet"


def print_query(root: Address, run_name: str, sql: str, as_json: bool) -> None:
    """Print the rows that a query gives, as they come: no more of them is held than a batch."""
    names, batches = query(find_run(existing_store(root), run_name), sql)
    if as_json:
        _print_json(batches)
        return
    made, rows = Table(*map(escape, map(harmless, names)), box=None), 0
    for batch in batches:
        for row in batch.slice(0, max(0, SHOWN - rows)).to_pylist():
            made.add_row(*(Text(harmless(str(value))) for value in row.values()))
        rows += len(batch)
    Console().print(made)
    if rows > SHOWN:
        print(f"first {SHOWN} of {rows} rows; --json prints all")


def query(run: Run, sql: str) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """Names of the columns and the rows of a query over the run's tables; it can read these and no file, address or store.

    Tables are named as the stages name them (`images`, `relations`, `rejected`), with the step's arm where several steps
    write one (`shards_pseudo`); column `partition` comes with each. Raises `FatalError` on what can't be carried out, which
    may show only when the rows are asked for.
    """
    try:
        import duckdb
    except ImportError as error:
        raise FatalError("rlip query needs DuckDB: pip install 'rlip[query]'") from error
    connection = duckdb.connect(config={"enable_external_access": False, "lock_configuration": True})
    tables: list[str] = []

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise FatalError(f"{sql}: {error}; tables of run {run.name!r}: {', '.join(sorted(tables))}") from error

    with told():
        for name, dataset in _tables(run):
            tables.append(name)
            connection.register(name, dataset)
        # Of several statements, and of some by themselves, this call carries out all it can.
        answer = _stoppable(connection, lambda: connection.sql(sql))
        if answer is None:
            raise FatalError(f"{sql!r} asks for no rows; e.g. 'select count(*) from {min(tables, default='images')}'")
        reader = _stoppable(connection, lambda: answer.to_arrow_reader(_BATCH))
    names = _distinct(reader.schema.names)

    def batches() -> Iterator[pa.RecordBatch]:
        with told(), connection:
            while (batch := _stoppable(connection, lambda: next(reader, None))) is not None:
                yield batch.rename_columns(names)

    return names, batches()


def _stoppable(connection: DuckDBPyConnection, work: Callable[[], Any]) -> Any:
    """What `work` gives. DuckDB's own ear for Ctrl-C is deaf while its other threads have all the tasks, so this thread waits."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(work)
        try:
            return answer.result()
        except KeyboardInterrupt:
            while not answer.done():  # an interruption before the query begins is forgotten
                connection.interrupt()
                wait([answer], timeout=0.1)
            raise


def _print_json(batches: Iterator[pa.RecordBatch]) -> None:
    """Print rows as one JSON list."""
    begin = "["
    for batch in batches:
        for row in batch.to_pylist():
            sys.stdout.write(begin + json.dumps(_plain(row), ensure_ascii=False, default=str))
            begin = ", "
    sys.stdout.write("[]\n" if begin == "[" else "]\n")


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of columns; one that stands there twice gets a number."""
    found: list[str] = []
    for name in names:
        times = 1
        while (other := name if times == 1 else f"{name}_{times}") in found:
            times += 1
        found.append(other)
    return found


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
