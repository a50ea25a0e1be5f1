"""What `rlip verify` reads besides artifacts: records, partition maps, verdicts, reports, and caches in the store's folder."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.data.datasets.record_index import damaged_indexes
from pipeline.data.partitioning import damaged_digests
from pipeline.labels.verdict_log import VERDICTS, VerdictLog
from pipeline.report.report_folder import damaged_reports
from pipeline.report.view import REPORTS
from pipeline.review.index import index_fault
from pipeline.stages.parse_cache import cache_fault
from storage.damage import DamagedFile, find_record_damage
from storage.store import Store

_VERDICT_REMEDY = (
    "what a person said can't be computed again: bring the file from a copy, or remove the line and judge anew"
)


def damaged_files(store: Store) -> Iterator[DamagedFile]:
    """Read them all. Yields those that are damaged.

    A cache that a recipe keeps outside the store is not found here; like these, it is verified where it is read.
    """
    yield from find_record_damage(store)
    indexes = store.root / "indexes"
    for path, what in (*damaged_indexes(indexes), *damaged_digests(indexes)):
        if what:
            yield DamagedFile(path, what, is_cache=True)
    for index in sorted((indexes / "review").glob("*.duckdb")):
        if fault := index_fault(index):
            yield DamagedFile(index, fault, is_cache=True)
    parses = store.root / "parses.sqlite"
    if parses.is_file() and (fault := cache_fault(parses)):
        yield DamagedFile(parses, fault, is_cache=True)
    for folder, what in damaged_reports(store.root / REPORTS):
        remedy = f"`rlip report {folder.name}` writes it anew, as does the next run"
        yield DamagedFile(folder, f"{folder}: {what}; {remedy}", is_cache=False)
    for line in VerdictLog(store.root / VERDICTS).damaged:
        yield DamagedFile(store.root / VERDICTS, f"{line}; {_VERDICT_REMEDY}", is_cache=False)
    for copy in store.damaged_copies():
        yield DamagedFile(copy, "does not match what it is a copy of", is_cache=True)
