"""`rlip query`: runs SQL over the tables of a run, with DuckDB."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import typer
from pyarrow import csv
from pyarrow.fs import LocalFileSystem
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import STORE, AsJson, RunName, StorePath
from pipeline.interop.run_tables import PartOfTable, tables_by_name
from pipeline.report.formatting import sanitise
from pipeline.runtime.wording import counted
from storage.atomic import atomic_file
from storage.errors import FatalError
from storage.json_files import json_values
from storage.open_store import existing_store
from storage.runs import Run, find_run

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SHOWN = 100
"""Rows printed in a terminal; `--json` prints all."""
_BATCH = 10_000
_PARQUET = ".parquet"
_WRITERS = {".csv": csv.CSVWriter, _PARQUET: pq.ParquetWriter}


def query(
    run_name: RunName,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="E.g. 'select count(*) from images'.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write all rows to this new .csv or .parquet file.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Run an SQL query (DuckDB) on a run's tables: labels (one row each), images, captions, triplets, rejected, ..."""
    if out is not None and out.suffix not in _WRITERS:
        raise FatalError(f"--out {out}: name a file that ends in {' or '.join(_WRITERS)}; --json prints JSON")
    if out is not None and out.exists():
        raise FatalError(f"--out {out} already exists; name a new file, or remove this one")
    schema, batches = select(find_run(existing_store(store), run_name), sql)
    if out is not None:
        rows = _write(batches, out)
        print(json.dumps({"file": str(out), "rows": rows}) if as_json else f"{counted(rows, 'row')} written to {out}")
        return
    if as_json:
        _print_json(batches)
        return
    made, rows = Table(box=None), 0
    for name in schema.names:
        made.add_column(sanitise(name), overflow="fold")
    for batch in batches:
        for row in batch.slice(0, max(0, SHOWN - rows)).to_pylist():
            made.add_row(*(Text(sanitise(str(value))) for value in row.values()))
        rows += len(batch)
    Console(markup=False).print(made)
    if rows > SHOWN:
        print(f"first {SHOWN} of {rows} rows; --json prints all")


def select(run: Run, sql: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Run a query over the tables of a run. Returns the columns and batches of rows, one of them in memory at a time.

    The query can't read files, URLs or other stores. Tables are named as stages name them (`images`, `relations`,
    `rejected`), plus the variant if several steps write one (`shards_pseudo`), with a column `partition`. `labels` has
    one row per label (`pipeline/labels/label_rows.py`). Raises `FatalError` if the query fails, possibly only when
    the rows are read.
    """
    import duckdb

    # Locked, so that no statement can allow files, URLs or extensions again.
    connection = duckdb.connect(config={"enable_external_access": False, "lock_configuration": True})
    tables: list[str] = []
    resources = ExitStack()

    @contextmanager
    def errors_explained() -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            resources.close()
            raise FatalError(f"{sql}: {error}; tables of run {run.name!r}: {', '.join(sorted(tables))}") from error

    with errors_explained():
        every = tables_by_name(run)
        tables += [*every, "labels"] if "relations" in every else every
        # Of a store at a URL, all files of a table are copied to this machine, so only named ones are opened. A query
        # that names none has all, and so has one for the names of tables or columns.
        named = [name for name in tables if re.search(rf"\b{re.escape(name)}\b", sql, re.IGNORECASE)]
        has_all = not named or re.search(r"(tables|columns|views)\b", sql, re.IGNORECASE)
        for name in (each for each in every if has_all or each in named):
            # DuckDB reads the schema here, and would turn Ctrl-C into a DuckDB error.
            _stoppable(connection, partial(connection.register, name, table_of(every[name])))
        if "labels" in named:
            folder = resources.enter_context(TemporaryDirectory(prefix="rlip-query-"))
            connection.register("labels", _labels(run, Path(folder) / "labels.parquet"))
        # This call already executes all but the last of several statements, and some single ones: it must be stoppable.
        answer = _stoppable(connection, lambda: connection.sql(sql))
        if answer is None:
            raise FatalError(f"{sql!r} is not a query; try e.g. 'select count(*) from {min(tables, default='images')}'")
        reader = _stoppable(connection, lambda: answer.to_arrow_reader(_BATCH))
    names = _distinct(reader.schema.names)
    schema = pa.schema([column.with_name(name) for column, name in zip(reader.schema, names, strict=True)])

    def batches() -> Iterator[pa.RecordBatch]:
        with errors_explained(), resources, connection:
            while (batch := _stoppable(connection, lambda: next(reader, None))) is not None:
                yield batch.rename_columns(names)

    return schema, batches()


def _stoppable(connection: DuckDBPyConnection, work: Callable[[], Any]) -> Any:
    """Call `work` in a thread. DuckDB ignores Ctrl-C while it runs, so this thread waits for the result instead."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(work)
        try:
            return answer.result()
        except KeyboardInterrupt:
            while not answer.done():  # interrupting before the query begins has no effect
                connection.interrupt()
                wait([answer], timeout=0.1)
            raise


def _labels(run: Run, path: Path) -> ds.Dataset:
    """The flat labels of a run, written to a file so that only one partition is in memory."""
    from pipeline.labels.label_rows import LABELS, flat_labels

    with pq.ParquetWriter(path, LABELS) as writer:
        for table in flat_labels(run):
            writer.write_table(table)
    return ds.dataset(path)


def _write(batches: Iterator[pa.RecordBatch], out: Path) -> int:
    """Write rows as CSV or Parquet, by the suffix of the new file `out`. Returns their number."""
    first = next(batches, None)
    if first is None:
        raise FatalError(f"--out {out}: the query returned no rows, so nothing was written")
    rows = 0
    try:
        with atomic_file(out) as aside, _WRITERS[out.suffix](aside, first.schema) as writer:
            for batch in chain([first], batches):
                writer.write_batch(batch)
                rows += len(batch)
    except OSError as error:
        raise FatalError(f"--out {out}: can't be written ({error.strerror or error}); name another file") from error
    except pa.ArrowException as error:
        raise FatalError(f"--out {out}: {error}; select plain columns, or write .parquet") from error
    return rows


def _print_json(batches: Iterator[pa.RecordBatch]) -> None:
    """Print the rows as one JSON array."""
    begin = "["
    for batch in batches:
        for row in batch.to_pylist():
            sys.stdout.write(begin + json.dumps(json_values(row), ensure_ascii=False, default=_plain))
            begin = ", "
    sys.stdout.write("[]\n" if begin == "[" else "]\n")


def _plain(value: Any) -> Any:
    """A number for an exact decimal, as DuckDB's sums of integers are; the text of any other value."""
    return json.loads(str(value)) if isinstance(value, Decimal) else str(value)


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names made unique by numbering repeated ones."""
    distinct: list[str] = []
    for name in names:
        times = 1
        while (other := name if times == 1 else f"{name}_{times}") in distinct:
            times += 1
        distinct.append(other)
    return distinct


def table_of(parts: Sequence[PartOfTable]) -> ds.Dataset:
    """A table over all partitions of a run, with their names in its rows, and read lazily.

    Columns that only some artifacts of a stage have, of a version or with a setting, are null in the rows of others.
    """
    form, files = ds.ParquetFileFormat(), LocalFileSystem()
    fragments = [
        form.make_fragment(
            str(part.artifact.file(f"{part.table}{_PARQUET}")),
            files,
            partition_expression=pc.field("partition") == part.partition,
        )
        for part in parts
    ]
    made = (part.artifact.manifest for part in parts)
    kinds = ((each.stage, each.terms.get("version"), each.schema_fingerprint) for each in made)
    # One file of each kind, since reading the schema of every file would take seconds.
    schemas = (each.physical_schema for each in dict(zip(kinds, fragments, strict=True)).values())
    own = pa.schema([("partition", pa.string())])
    schema = pa.unify_schemas([own, *schemas], promote_options="permissive")
    return ds.FileSystemDataset(fragments, schema, form, files)
