"""The review index: a DuckDB file with one row for each image and label of a run, kept up to date with the run.

It is a cache. Partitions whose artifacts or settings changed are indexed again. Opening a file reads all of it, about a
gigabyte per second; an unreadable file is rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.labelled_partitions import LabelledPartition, partition_artifacts
from pipeline.report.view import RunView
from pipeline.review.partition_rows import PART_BITS, TABLES, partition_counts, partition_rows
from pipeline.review.run_progress import file_stamps
from pipeline.runtime.logs import log
from storage.errors import FatalError, PipelineError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")
FEW = 64
"""Up to this many partitions are indexed faster than processes start."""
_PROCESSES = 4
"""Maximum number of processes: about as many as one index writer keeps up with."""
_AHEAD = 2
"""Flattened partitions that wait for each process, about 1 MB each."""


def flattened(
    partitions: Sequence[tuple[int, LabelledPartition]], choice: ChoiceSettings
) -> Iterator[dict[str, pa.Table] | None]:
    """Flattens partitions, given with their numbers, and yields the rows of each table of the index, in order.

    None stands for a partition whose artifacts don't fit each other.
    """
    if len(partitions) <= FEW:
        yield from (_flatten(part, found, choice) for part, found in partitions)
        return
    processes = min(_PROCESSES, len(os.sched_getaffinity(0)))
    # Processes are spawned: a fork of a server copies locks that its threads hold.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[dict[str, pa.Table] | None]] = deque()
        for part, found in partitions:
            waiting.append(pool.submit(_flatten, part, found, choice))
            if len(waiting) > processes * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _flatten(part: int, found: LabelledPartition, choice: ChoiceSettings) -> dict[str, pa.Table] | None:
    held = found.held()
    try:
        rows = partition_rows(part, held, choice)
        return rows | partition_counts(part, held, rows["relations"])
    except PipelineError:
        return None


LIVE = "live"
"""Schema of the tables in memory that say which labels have a verdict. `Reviews` fills them."""
_FORMAT = 6
"""Incremented whenever the same artifacts would give other rows."""
MOST_INFORMATIVE = 500
"""Labels of each predicate, the most uncertain ones, that the queue by information holds."""
_SEARCHES = 2
"""Searches that run at a time. Each takes memory, and a processor for a second."""
_AT_ONCE = 50
"""Numbers that one statement looks up."""
_BATCH = 32
"""Partitions that are written at once."""
_MEMORY = "256MB"
_THREADS = 1
"""Of each query. With two, one search holds both processors of a small machine, and screens wait for it."""
OFFERED = {
    "datasets": "SELECT DISTINCT dataset AS name, 0 AS often FROM images",
    "predicates": "SELECT predicate AS name, scored AS often FROM predicates",
    "categories": (
        "SELECT subject_category AS name, 0 AS often FROM relations UNION SELECT object_category, 0 FROM relations"
    ),
    "reasons": "SELECT DISTINCT reason AS name, 0 AS often FROM relations WHERE reason IS NOT NULL",
}
"""What the search form offers, each with its names, the most frequent first."""
_MOST_OFFERED = 5000


class ReviewIndex:
    """The index of one run at `path`. Any number of threads may query it while one refreshes it.

    `view` reads the run with its present settings, which another execution may change. Raises `FatalError` when another
    process has the file open.
    """

    def __init__(self, path: Path, view: Callable[[], RunView]) -> None:
        self._read_view = view
        self.view = view()
        self.generation = 0
        """Changes with the rows, so that no answer about earlier rows is reused."""
        self._path = path
        self.labels: dict[tuple[int, int], Any] = {}
        """(generation, number) → label from `labels_of`: verdicts concern labels that were just listed."""
        self.settle: Callable[[], None] = lambda: None
        """Brings the tables of `LIVE` up to date. Every query that names one calls it first."""
        self._made: dict[str, tuple[int, Any]] = {}
        self._making = threading.RLock()
        self._known: list[tuple[str, int, int]] | None = None
        """The run as it was when it was last read."""
        self._searching = threading.BoundedSemaphore(_SEARCHES)
        self._artifacts: Mapping[int, LabelledPartition] = {}
        self._refreshing = threading.Lock()
        self._opening = threading.Lock()
        """A connection that two threads call at a time refuses the second."""
        self._connection = _open(path)
        self._lay_out()

    def close(self) -> None:
        """Close the file; nothing may be queried any more."""
        with self._opening:
            self._connection.close()

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, computed once for the present rows. Other threads wait for it."""
        with self._making:
            if name not in self._made or self._made[name][0] != self.generation:
                self._made[name] = self.generation, make()
            made: T = self._made[name][1]
            return made

    @contextmanager
    def cursor(self) -> Iterator[DuckDBPyConnection]:
        """A separate cursor, for one thread."""
        with self._opening:
            cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    @contextmanager
    def transaction(self) -> Iterator[DuckDBPyConnection]:
        """A cursor whose changes become visible to others all at once, at the end."""
        with self.cursor() as cursor:
            cursor.begin()
            yield cursor
            cursor.commit()

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows of a query, each as column → value. Values reach the query as parameters only."""
        self._settle(sql)
        with self.cursor() as cursor:
            cursor.execute(sql, dict(parameters or {}))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def rows_at(self, table: str, columns: str, key: str, values: Sequence[int]) -> list[dict[str, Any]]:
        """The rows whose `key` is one of a few whole numbers, in no order."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(values), _AT_ONCE):
            found += self.rows(rows_with(table, columns, key, values[start : start + _AT_ONCE]))
        return found

    def table(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The rows of a query over many labels as an Arrow table. A few such queries run at a time, the others wait."""
        self._settle(sql)
        with self._searching, self.cursor() as cursor:
            return cursor.sql(sql, params=dict(parameters or {})).to_arrow_table()

    def _settle(self, sql: str) -> None:
        if f"{LIVE}." in sql:
            self.settle()

    def partition(self, part: int) -> LabelledPartition | None:
        """The artifacts that a partition was indexed from; None for a number that no partition has."""
        return self._artifacts.get(part)

    def refresh(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Index new and changed partitions, and forget removed ones. Returns how many there were.

        `progress` is called with the numbers of partitions done and to do. A partition whose artifacts don't fit each
        other, because its run is in progress, is left as it was.
        """
        with self._refreshing:
            self.view.run.store.refresh()
            # An execution writes its recipe after the last step.
            recorded = file_stamps(self.view.run.folder / "steps") + file_stamps(self.view.run.folder)
            if recorded == self._known:
                return 0
            self.view = self._read_view()
            every = partition_artifacts(self.view.run, self.view.label_sets or None)
            found = {name: every[name] for name in sorted(every) if every[name].images is not None}
            choice = self.view.choice.model_dump(mode="json")
            stamps = {name: _stamp(one, choice) for name, one in found.items()}
            known = {row["partition"]: (row["part"], row["stamp"]) for row in self.rows("SELECT * FROM parts")}
            stale = [name for name in found if known.get(name, (0, ""))[1] != stamps[name]]
            gone = {part for name, (part, _) in known.items() if name not in found}
            following = max((part for part, _ in known.values()), default=-1) + 1
            numbers = {name: part for name, (part, _) in known.items()}
            numbers |= {name: number for number, name in enumerate((n for n in stale if n not in known), following)}
            flat = flattened([(numbers[name], found[name]) for name in stale], self.view.choice)
            changed = done = 0
            unfit: set[str] = set()
            while batch := list(islice(flat, _BATCH)):
                names = stale[done : done + len(batch)]
                made = [(name, numbers[name], tables) for name, tables in zip(names, batch, strict=True) if tables]
                if left := set(names).difference(name for name, *_ in made):
                    unfit |= left
                    log.warning(
                        "labels don't fit their images or settings", extra={"fields": {"partitions": sorted(left)}}
                    )
                if made:
                    self._write(made, stamps, known)
                changed += len(made)
                done += len(batch)
                progress(done, len(stale))
            with self.transaction() as cursor:
                for part in gone:
                    _delete(cursor, part)
            changed += len(gone)
            # Rows that stay as they were describe the artifacts from which they were made.
            fitting = {numbers[name]: one for name, one in found.items() if name not in unfit}
            self._artifacts = {part: one for part, one in self._artifacts.items() if part not in gone} | fitting
            if changed:
                self._count()
                self.generation += 1
            self._known = recorded
            return changed

    def _write(
        self, made: Sequence[tuple[str, int, dict[str, pa.Table]]], stamps: Mapping[str, str], known: Collection[str]
    ) -> None:
        """Replace the rows of partitions (name, number, tables) in one transaction. `known`: those that have rows."""
        with self.transaction() as cursor:
            for name, part, _ in made:
                if name in known:
                    _delete(cursor, part)
            for table in TABLES:
                rows = pa.concat_tables([tables[table] for *_, tables in made])
                run_with(cursor, f"INSERT INTO {table} SELECT * FROM rows", rows=rows)
            for name, part, _ in made:
                cursor.execute("INSERT INTO parts VALUES (?, ?, ?)", [part, name, stamps[name]])
            cursor.execute("INSERT INTO uncounted VALUES (?)", [len(made)])

    def _count(self) -> None:
        """Recount predicates and rank each one's uncertain labels: what sorting and the overview need of all labels."""
        with self.transaction() as cursor:
            cursor.execute(
                "CREATE OR REPLACE TABLE predicates AS SELECT predicate, count(*) AS scored, "
                "count(*) FILTER (kept) AS kept, count(*) FILTER (kept AND correct IS NOT NULL) AS judged, "
                "count(*) FILTER (kept AND correct) AS correct FROM relations GROUP BY predicate"
            )
            cursor.execute(
                "CREATE OR REPLACE TABLE informative AS SELECT relation, row_number() OVER (PARTITION BY predicate "
                "ORDER BY abs(probability - 0.5), relation) - 1 AS rank FROM relations WHERE relation IN (SELECT "
                f"unnest(most) FROM (SELECT min_by(relation, abs(probability - 0.5), {MOST_INFORMATIVE}) AS most FROM "
                "relations GROUP BY predicate))"
            )
            cursor.execute(f"CREATE OR REPLACE TABLE offered AS {' UNION ALL '.join(map(_offer, OFFERED))}")
            cursor.execute("DELETE FROM uncounted")

    def _lay_out(self) -> None:
        with self.cursor() as cursor:
            for name, schema in TABLES.items():
                run_with(cursor, f"CREATE TABLE IF NOT EXISTS {name} AS SELECT * FROM none", none=schema.empty_table())
            cursor.execute("CREATE TABLE IF NOT EXISTS parts (part INTEGER, partition VARCHAR, stamp VARCHAR)")
            cursor.execute("CREATE TABLE IF NOT EXISTS uncounted (partitions INTEGER)")
            # What changes with every verdict is not worth a wait for the disk: the log of verdicts has it.
            cursor.execute(f"ATTACH ':memory:' AS {LIVE}")
            # A process that was killed may have written partitions and counted nothing.
            tables = {name for (name,) in cursor.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            counted = "offered" in tables and not cursor.execute("SELECT * FROM uncounted").fetchall()
        if not counted:
            self._count()


def run_with(cursor: DuckDBPyConnection, sql: str, **tables: pa.Table) -> list[tuple[Any, ...]]:
    """The rows of a statement that names Arrow tables."""
    for name, table in tables.items():
        cursor.register(name, table)
    rows: list[tuple[Any, ...]] = cursor.execute(sql).fetchall()
    for name in tables:
        cursor.unregister(name)
    return rows


def rows_with(table: str, columns: str, key: str, values: Sequence[int]) -> str:
    """A query for the rows whose `key` is one of these integers, at least one.

    Each of the few numbers is looked up separately, and so only in the row group that may hold it. A list of numbers
    would be compared with every row of all these groups, which takes three times as long for a screen of labels.
    """
    if len(values) > _AT_ONCE:
        return f"SELECT {columns} FROM {table} WHERE {key} IN {sql_list(values)}"
    return " UNION ALL ".join(f"(SELECT {columns} FROM {table} WHERE {key} = {int(value)})" for value in values)


def sql_list(numbers: Iterable[int]) -> str:
    """Integers as an SQL list, with which a scan skips row groups; a list in a parameter would be joined."""
    return f"({', '.join(str(int(number)) for number in numbers)})"


def index_fault(path: Path) -> str:
    """What is wrong with an index file, which is read in full; "" if nothing is or if a page has it open."""
    import duckdb

    try:
        with duckdb.connect(str(path), read_only=True, config=_settings(path)) as connection:
            _read_all(connection)
    except duckdb.Error as error:
        return "" if _is_held(error) else f"the index of a review page can't be read ({error})"
    return ""


def _open(path: Path) -> DuckDBPyConnection:
    import duckdb

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if (connection := _whole(path)) is not None:
                return connection
        except duckdb.Error as error:
            if _is_held(error):
                raise FatalError(
                    f"another process already serves this run and has locked its index {path}; open the page at the "
                    "address that it printed, or stop it"
                ) from error
            log.warning(
                "the index was damaged and is rebuilt", extra={"fields": {"file": str(path), "reason": str(error)}}
            )
        for part in (path, path.with_name(f"{path.name}.wal")):
            part.unlink(missing_ok=True)
        return duckdb.connect(str(path), config=_settings(path))
    except (OSError, duckdb.IOException) as error:
        raise FatalError(
            f"{path}: the index of the review page can't be written ({error}); make the folder writable, or copy the "
            "run to another store with `rlip store pull`"
        ) from error


def _whole(path: Path) -> DuckDBPyConnection | None:
    """The index at `path`, or None for one of another version. Raises duckdb.Error for one that is damaged."""
    import duckdb

    connection = duckdb.connect(str(path), config=_settings(path))
    try:
        found = _read_all(connection)
        if not found or found >= {(name, field.name) for name, schema in TABLES.items() for field in schema}:
            return connection
    except duckdb.Error:
        connection.close()
        raise
    connection.close()
    return None


def _read_all(connection: DuckDBPyConnection) -> set[tuple[str, str]]:
    """The tables with their columns. Reads every row, since DuckDB compares its checksums with what it reads."""
    for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
        quoted = table.replace('"', '""')
        connection.execute(f'SELECT bit_xor(hash(found)) FROM "{quoted}" AS found').fetchall()
    return set(connection.execute("SELECT table_name, column_name FROM information_schema.columns").fetchall())


def _is_held(error: Exception) -> bool:
    return "could not set lock" in str(error).lower()


def _settings(path: Path) -> dict[str, str | bool | int | float | list[str]]:
    return {
        "memory_limit": _MEMORY,
        "threads": _THREADS,
        "temp_directory": f"{path}.tmp",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "preserve_insertion_order": True,
    }


def _offer(kind: str) -> str:
    ranked = f"SELECT name, row_number() OVER (ORDER BY often DESC, name) AS place FROM ({OFFERED[kind]})"
    return f"(SELECT '{kind}' AS kind, name, place FROM ({ranked}) WHERE place <= {_MOST_OFFERED})"


def _stamp(found: LabelledPartition, choice: Mapping[str, Any]) -> str:
    """Digest of everything that decides the rows of a partition."""
    keys = {step: artifact.key for step, artifact in found.steps().items()}
    terms = [_FORMAT, sorted(keys.items()), choice]
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()


def _delete(cursor: DuckDBPyConnection, part: int) -> None:
    for table in ("relations", "images"):
        cursor.execute(
            f"DELETE FROM {table} WHERE image >= ? AND image < ?", [part << PART_BITS, (part + 1) << PART_BITS]
        )
    for table in ("quarantined", "counts", "scores", "parts"):
        cursor.execute(f"DELETE FROM {table} WHERE part = ?", [part])
