"""A display that also moves a progress artifact in Prefect."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.artifact_key import artifact_key
from pipeline.run.planner import StepPlan
from pipeline.run.progress import Display, summary
from pipeline.runtime.execute import Record, WorkItem

EVERY = 1.0
"""Seconds between two updates of the artifact: each is a request to the server."""


class Watched:
    """Passes everything on to `display`, and one step's progress to Prefect, from the flow run's own thread.

    Progress may come from any thread; `pulse` publishes it and belongs to the thread that made this object.
    """

    def __init__(self, display: Display, run: str) -> None:
        self._display = display
        self._run = run
        self._thread = threading.get_ident()
        self._artifact: UUID | None = None
        self._partitions = 0
        self._share: dict[str, float] = {}
        self._published = 0.0

    def drawing(self, done: int, total: int) -> None:
        """Scenes are drawn before there is anything to show in Prefect."""
        self._display.drawing(done, total)

    def reading(self, dataset: str, share: float) -> None:
        """Neither is there while annotations are read."""
        self._display.reading(dataset, share)

    def step(self, plan: StepPlan) -> None:
        """Make the artifact, at the share that is cached."""
        self._display.step(plan)
        self._partitions = plan.partitions
        self._share = {record.partition: 1.0 for record in plan.cached}
        key = artifact_key("progress", self._run, plan.step.name)
        note = f"{plan.step.name}: {len(plan.cached)} of {plan.partitions} partitions cached"
        self._artifact = cast(UUID, create_progress_artifact(self._percent(), key, note))
        self._published = time.monotonic()

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Note an item's share; a whole-set stage reports on the flow run's thread and is published at once."""
        self._share[item.partition] = done / max(total, 1)
        self._display.progress(item, done, total, note)
        if threading.get_ident() == self._thread:
            self.pulse()

    def finished(self, record: Record) -> None:
        """The item's share is whole."""
        self._share[record.partition] = 1.0
        self._display.finished(record)

    def pulse(self) -> None:
        """Publish what was noted, if the last time is long enough ago."""
        if self._artifact is not None and time.monotonic() - self._published >= EVERY:
            self._published = time.monotonic()
            update_progress_artifact(self._artifact, self._percent())

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Publish the end."""
        if self._artifact is not None and plan.due:
            description = f"{plan.step.name}: {summary(plan, records, seconds)}"
            update_progress_artifact(self._artifact, 100.0, description)
        self._display.done(plan, records, seconds)

    def _percent(self) -> float:
        return round(100 * sum(self._share.copy().values()) / max(self._partitions, 1), 1)
