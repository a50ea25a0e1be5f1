"""The review index: a DuckDB file with one row for each image and label of a run, kept up to date with the run.

It is a cache. Partitions whose artifacts or settings changed are indexed again, and a file that can't be read is made anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.labels.label_funnel import images_with_boxes
from pipeline.report.view import RunView
from pipeline.review.partition_counts import COUNTS, SCORES, partition_counts
from pipeline.review.partition_rows import IMAGES, QUARANTINED, RELATIONS, PartitionArtifacts, partition_rows
from storage.errors import FatalError, PipelineError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_FORMAT = 1
"""Incremented whenever the same artifacts would give other rows."""
MOST_INFORMATIVE = 500
"""Labels of each predicate, the most uncertain ones, that the queue by information holds."""
_MEMORY = "400MB"
_THREADS = 2
_TYPES = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float32(): "REAL",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.string(): "VARCHAR",
}
_TABLES = {"images": IMAGES, "relations": RELATIONS, "quarantined": QUARANTINED, "counts": COUNTS, "scores": SCORES}


class ReviewIndex:
    """The index of one run at `path`. Any number of threads may query it while one refreshes it.

    Raises `FatalError` when another process has the file open.
    """

    def __init__(self, path: Path, view: RunView) -> None:
        self.view = view
        self.generation = 0
        """Changes with the rows, so that nobody keeps an answer of earlier ones."""
        self._path = path
        self._refreshing = threading.Lock()
        self._connection = _open(path)
        self._lay_out()

    def close(self) -> None:
        """Close the file; nothing may be queried any more."""
        self._connection.close()

    @contextmanager
    def cursor(self) -> Iterator[DuckDBPyConnection]:
        """A cursor of its own, for one thread."""
        cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows of a query, each as column → value. Values reach the query as parameters only."""
        with self.cursor() as cursor:
            cursor.execute(sql, dict(parameters or {}))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def table(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The rows of a query as an Arrow table."""
        with self.cursor() as cursor:
            return cursor.sql(sql, params=dict(parameters or {})).to_arrow_table()

    def partition(self, part: int) -> PartitionArtifacts | None:
        """The artifacts that a partition was indexed from; None for a number that no partition has."""
        names = self.rows("SELECT partition FROM parts WHERE part = $part", {"part": part})
        return self._partitions().get(names[0]["partition"]) if names else None

    def refresh(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Index the partitions that are new or changed, and forget those that are gone. Returns how many there were.

        `progress` is told the partitions done and to do. A partition whose artifacts don't fit each other, because its run
        is on its way, is left as it was.
        """
        with self._refreshing:
            self.view.run.store.refresh()
            found = self._partitions()
            stamps = {name: self._stamp(one) for name, one in found.items()}
            known = {row["partition"]: (row["part"], row["stamp"]) for row in self.rows("SELECT * FROM parts")}
            stale = [name for name in found if known.get(name, (0, ""))[1] != stamps[name]]
            gone = [part for name, (part, _) in known.items() if name not in found]
            following = max((part for part, _ in known.values()), default=-1) + 1
            changed = 0
            for done, name in enumerate(stale):
                progress(done, len(stale))
                part, _ = known.get(name, (following, ""))
                following = max(following, part + 1)
                changed += self._index(part, name, stamps[name], found[name])
            for part in gone:
                self._forget(part)
            changed += len(gone)
            if changed:
                self._count()
                self.generation += 1
            if stale:
                progress(len(stale), len(stale))
            return changed

    def _index(self, part: int, name: str, stamp: str, found: PartitionArtifacts) -> bool:
        try:
            rows = partition_rows(part, found, self.view.choice)
            counted = partition_counts(part, found, rows.relations)
        except PipelineError:
            return False
        with self.cursor() as cursor:
            cursor.begin()
            _delete(cursor, part)
            for table, content in {**vars(rows), **vars(counted)}.items():
                cursor.register("new_rows", content)
                cursor.execute(f"INSERT INTO {table} SELECT * FROM new_rows")
                cursor.unregister("new_rows")
            cursor.execute("INSERT INTO parts VALUES (?, ?, ?)", [part, name, stamp])
            cursor.commit()
        return True

    def _forget(self, part: int) -> None:
        with self.cursor() as cursor:
            cursor.begin()
            _delete(cursor, part)
            cursor.commit()

    def _count(self) -> None:
        """Count the predicates anew, and rank each one's uncertain labels: what orders and the overview need of all labels."""
        with self.cursor() as cursor:
            cursor.execute(
                "CREATE OR REPLACE TABLE predicates AS SELECT predicate, count(*) AS scored, "
                "count(*) FILTER (kept) AS kept, count(*) FILTER (kept AND correct IS NOT NULL) AS judged, "
                "count(*) FILTER (kept AND correct) AS correct FROM relations GROUP BY predicate"
            )
            cursor.execute(
                "CREATE OR REPLACE TABLE informative AS SELECT relation, row_number() OVER (PARTITION BY predicate ORDER BY "
                "abs(probability - 0.5), relation) - 1 AS rank FROM relations WHERE relation IN (SELECT unnest(most) FROM "
                f"(SELECT min_by(relation, abs(probability - 0.5), {MOST_INFORMATIVE}) AS most FROM relations "
                "GROUP BY predicate))"
            )

    def _partitions(self) -> dict[str, PartitionArtifacts]:
        """Partition → artifacts, of the data sets that are labelled, in a stable order."""
        run = self.view.run
        images, ingested = images_with_boxes(run), run.artifacts("ingest")
        captions, triplets, tagged = (run.artifacts(step) for step in ("caption", "parse", "tag"))
        return {
            name: PartitionArtifacts(
                name,
                images[name],
                ingested.get(name, images[name]),
                captions.get(name),
                triplets.get(name),
                tagged.get(name),
            )
            for name in sorted(images)
            if not self.view.label_sets or name.split("/")[0] in self.view.label_sets
        }

    def _stamp(self, found: PartitionArtifacts) -> str:
        """What the rows of a partition follow from."""
        keys = {step: artifact.key for step, artifact in found.steps().items()}
        terms = [_FORMAT, sorted(keys.items()), self.view.choice.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()

    def _lay_out(self) -> None:
        with self.cursor() as cursor:
            for name, schema in _TABLES.items():
                columns = ", ".join(f'"{field.name}" {_TYPES[field.type]}' for field in schema)
                cursor.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
            cursor.execute("CREATE TABLE IF NOT EXISTS parts (part INTEGER, partition VARCHAR, stamp VARCHAR)")
        self._count()


def _open(path: Path) -> DuckDBPyConnection:
    import duckdb

    path.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "threads": _THREADS,
        "temp_directory": f"{path}.tmp",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "preserve_insertion_order": True,
    }
    try:
        connection = duckdb.connect(str(path), config=settings)
    except duckdb.IOException as error:
        if "lock" in str(error).lower():
            raise FatalError(
                f"another process shows this run already and holds its index {path}; open the page at the address that it "
                "printed, or end it"
            ) from error
        path.unlink()
        connection = duckdb.connect(str(path), config=settings)
    try:
        tables = connection.execute("SELECT table_name, column_name FROM information_schema.columns").fetchall()
    except duckdb.Error:
        tables = []
    expected = {(name, field.name) for name, schema in _TABLES.items() for field in schema}
    if tables and not expected <= set(tables):
        connection.close()
        path.unlink()
        connection = duckdb.connect(str(path), config=settings)
    return connection


def _delete(cursor: DuckDBPyConnection, part: int) -> None:
    for table in ("relations", "images"):
        cursor.execute(f"DELETE FROM {table} WHERE image >= ? AND image < ?", [part << 32, (part + 1) << 32])
    for table in ("quarantined", "counts", "scores", "parts"):
        cursor.execute(f"DELETE FROM {table} WHERE part = ?", [part])
