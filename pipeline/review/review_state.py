"""A run under review: its index, verdicts and everything else the page needs, kept current during the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pipeline.labels.team import Team
from pipeline.labels.verdict_log import VerdictLog
from pipeline.report.view import RunView
from pipeline.review.audit import Audit, TeamShares
from pipeline.review.comparison import RunComparison
from pipeline.review.image_detail import ImageDetails
from pipeline.review.index import ReviewIndex
from pipeline.review.label_facts import label_facts
from pipeline.review.listing import Listing
from pipeline.review.pictures import Pictures
from pipeline.review.reviews import Reviews
from pipeline.review.run_progress import RunProgress

REFRESH_SECONDS = 10.0
"""How often the page looks for new contents of the run and for others' verdicts."""

_log = logging.getLogger("rlip.review")


class ReviewState:
    """A run, its index, and the verdicts on its labels.

    `view` reads the run with its present settings. `against`: another run to compare with. `planned`: step → the steps
    that it needs, from the run's recipe. `read_only`: visitors give no verdicts and take no seat. `team`: it replaces the
    one that the folder of verdicts keeps.
    Raises `FatalError` if the index can't be opened.
    """

    def __init__(
        self,
        view: Callable[[], RunView],
        index: Path,
        verdicts: Path,
        against: RunView | None = None,
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
        self.pictures = Pictures(self.view.image_folders)
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
            self.pictures = Pictures(self.view.image_folders)
            self.comparison.refresh()
            self.shares.refresh()
            self.audit.refresh()
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
                _log.exception("the run could not be read again")
