"""A run under review: its index, verdicts and everything else the page needs, kept current during the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.labels.labelled_partitions import partition_artifacts
from pipeline.labels.team import Team
from pipeline.labels.verdict_log import VerdictLog
from pipeline.report.view import RunView
from pipeline.review.audit import Audit, TeamShares
from pipeline.review.image_detail import ImageDetails
from pipeline.review.index import ReviewIndex, run_with
from pipeline.review.label_facts import label_facts
from pipeline.review.listing import Listing
from pipeline.review.partition_rows import SIDES, partition_rows
from pipeline.review.reviews import Reviews
from pipeline.review.run_progress import RunProgress, file_stamps
from pipeline.runtime.logs import log

MOST_DIFFERENT = 12
"""Predicates that the comparison names."""
_BOTH = "FROM relations r LEFT JOIN against a USING (relation)"
_KEPT_HERE = "count(*) FILTER (r.kept AND NOT coalesce(a.kept, false))"
_KEPT_THERE = "count(*) FILTER (NOT r.kept AND a.kept)"
_FACT = "r.image, r.subject, r.object, r.predicate"
_FIRST = f"row_number() OVER (PARTITION BY {_FACT} ORDER BY r.kept DESC, r.relation) = 1"
"""Of labels that say the same in other words, one stands for all: that which is kept here, if any."""


class RunComparison:
    """The labels that an index shares with another run, in its table `against`; empty without one. `view` reads it."""

    def __init__(self, index: ReviewIndex, view: Callable[[], RunView] | None) -> None:
        self._index, self._read_view = index, view
        self.other = None if view is None else view()
        self._known: Any = None  # both runs as they were when they were last compared
        with index.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE TABLE against (relation BIGINT, kept BOOLEAN)")
        self.refresh()

    def refresh(self) -> None:
        """Compare runs that have changed, one partition at a time, so that memory holds the labels of only one."""
        if self.other is None or self._read_view is None:
            return
        folder = self.other.run.folder
        recorded = file_stamps(folder / "steps"), file_stamps(folder)
        if (self._index.generation, recorded) == self._known:
            return
        self.other = self._read_view()
        with self._index.transaction() as cursor:
            cursor.execute("DELETE FROM against")
            for found in partition_artifacts(self.other.run).values():
                if found.images is None or found.tagged is None:
                    continue
                rows = partition_rows(0, found, self.other.choice)
                theirs, images = rows["relations"], rows["images"].select(["dataset", "image_id"])
                of = images.take(pa.array(np.asarray(theirs["image"])))
                theirs = theirs.append_column("dataset", of["dataset"]).append_column("image_id", of["image_id"])
                matched = " AND ".join(f"r.{side} = t.{side}" for side in ("predicate", *SIDES))
                run_with(
                    cursor,
                    f"INSERT INTO against SELECT r.relation, bool_or(t.kept) AND {_FIRST} FROM theirs t "
                    f"JOIN images i USING (dataset, image_id) JOIN relations r ON r.image = i.image AND {matched} "
                    f"GROUP BY r.relation, r.kept, {_FACT}",
                    theirs=theirs,
                )
        # Searches for labels on which the runs disagree find others now.
        self._index.generation += 1
        self._known = self._index.generation, recorded

    def summary(self) -> dict[str, Any] | None:
        """Label counts: in both runs, kept in both, kept in this or the other only. None without another run."""
        if self.other is None:
            return None
        found = self._count(
            "SELECT count(*) FILTER (a.relation IS NOT NULL) AS both, "
            "count(*) FILTER (r.kept AND a.kept) AS kept_in_both, "
            f"{_KEPT_HERE} AS kept_here, {_KEPT_THERE} AS kept_there {_BOTH}"
        )
        return {"other": self.other.run.name, **found[0]}

    def differences(self) -> list[dict[str, Any]]:
        """Canonical predicates by how many labels only one of the runs keeps, largest number first."""
        if self.other is None:
            return []
        return self._count(
            f"SELECT predicate, {_KEPT_HERE} AS kept_here, {_KEPT_THERE} AS kept_there {_BOTH} GROUP BY predicate "
            f"HAVING kept_here + kept_there > 0 ORDER BY kept_here + kept_there DESC, predicate LIMIT {MOST_DIFFERENT}"
        )

    def _count(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query over all labels, until they are compared again."""
        return self._index.once(sql, lambda: self._index.rows(sql))


REFRESH_SECONDS = 10.0
"""How often the page looks for new contents of the run and for others' verdicts."""


class ReviewState:
    """A run, its index, and the verdicts on its labels.

    `view` reads the run with its present settings, `against` another one to compare with. `planned`: step → the steps
    that it needs, from the run's recipe. `read_only`: visitors give no verdicts and take no seat. `team`: it replaces
    the one that the folder of verdicts keeps. Raises `FatalError` if the index can't be opened.
    """

    def __init__(
        self,
        view: Callable[[], RunView],
        index: Path,
        verdicts: Path,
        against: Callable[[], RunView] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        planned: Mapping[str, Collection[str]] | None = None,
        read_only: bool = False,
        team: Team | None = None,
    ) -> None:
        self.read_only = read_only
        self.index = ReviewIndex(index, view)
        self.index.refresh(progress)
        self.comparison = RunComparison(self.index, against)
        self.reviews = Reviews(self.index, VerdictLog(verdicts))
        self.shares = TeamShares(self.index, verdicts, read_only, team)
        self.audit = Audit(self.index, self.reviews, self.shares)
        self.listing = Listing(self.index)
        self.details = ImageDetails(self.index)
        self.progress = RunProgress(self.view.run, planned or {})
        self._count()
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def view(self) -> RunView:
        """The run with the settings of its index."""
        return self.index.view

    def watch(self) -> None:
        """Start a thread that keeps index and verdicts current."""
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop watching and close the index."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        self.index.close()

    def refresh(self) -> None:
        """Read what the run and other reviewers have added."""
        if self.index.refresh():
            self.shares.refresh()
            self.audit.refresh()
        try:
            self.comparison.refresh()
        finally:
            # Verdicts do not depend on the other run. They come last because all are matched again after a comparison.
            self.reviews.refresh()
        self._count()

    def _count(self) -> None:
        """Count in advance what the overview shows, so that no page waits for it."""
        self.progress.steps()
        label_facts(self.index)
        self.comparison.summary()
        self.comparison.differences()

    def _watch(self) -> None:
        while not self._closing.wait(REFRESH_SECONDS):
            try:
                self.refresh()
            except Exception:
                # The page keeps its present state; the next attempt may find the store intact.
                log.exception("the run could not be read again")
