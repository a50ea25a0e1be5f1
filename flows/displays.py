"""Where a flow run shows its progress: log lines of a deployment, and a progress artifact in Prefect."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from pipeline.run.planner import StepPlan
from pipeline.run.progress import LINE_EVERY, Display, summary
from pipeline.runtime.execute import Record, WorkItem

UPDATE_EVERY = 1.0
"""Seconds between two updates of the artifact: each is a request to the server."""


def artifact_key(*parts: str) -> str:
    """A key of a Prefect artifact, e.g. `progress-demo-shard-pseudo`: lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class FlowLogDisplay:
    """Log lines of the flow run: one when a step begins, one every ten seconds, one when it ends."""

    def __init__(self) -> None:
        # Progress arrives on the engine's threads, which are outside the flow run: its logger is taken here, inside.
        self._log = get_run_logger()
        self._said = time.monotonic()

    def drawing(self, done: int, total: int) -> None:
        """Say now and then how many scenes are drawn."""
        if self._is_due() or done == total:
            self._log.info("scenes: %d of %d drawn", done, total)

    def reading(self, dataset: str, share: float) -> None:
        """Say now and then how much of the annotations is read."""
        if self._is_due():
            self._log.info("%s: annotations, %d%% read", dataset, 100 * share)

    def step(self, plan: StepPlan) -> None:
        """Say what is due."""
        self._log.info("%s: %d cached, %d to do", plan.step.name, len(plan.cached), len(plan.due))

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Say now and then how far an item is."""
        if self._is_due():
            self._log.info("%s %s: %d/%d %s", item.step, item.partition, done, total, note)

    def finished(self, record: Record) -> None:
        """Nothing: the step's last line counts its items."""

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Say what came out."""
        self._log.info("%s: %s", plan.step.name, summary(plan, records, seconds))

    def _is_due(self) -> bool:
        due = time.monotonic() - self._said >= LINE_EVERY
        if due:
            self._said = time.monotonic()
        return due


class ArtifactDisplay:
    """Passes everything on to `display`, and publishes one step's progress in Prefect from the flow run's own thread.

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
        """Passed on: scenes are drawn before Prefect has anything to show."""
        self._display.drawing(done, total)

    def reading(self, dataset: str, share: float) -> None:
        """Passed on, likewise."""
        self._display.reading(dataset, share)

    def step(self, plan: StepPlan) -> None:
        """Create the artifact, at the share that is cached."""
        self._display.step(plan)
        self._partitions = plan.partitions
        self._share = {record.partition: 1.0 for record in plan.cached}
        key = artifact_key("progress", self._run, plan.step.name)
        note = f"{plan.step.name}: {len(plan.cached)} of {plan.partitions} partitions cached"
        self._artifact = cast(UUID, create_progress_artifact(self._percent(), key, note))
        self._published = time.monotonic()

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Note an item's share. A whole-set stage reports on the flow run's thread and is published at once."""
        self._share[item.partition] = done / max(total, 1)
        self._display.progress(item, done, total, note)
        if threading.get_ident() == self._thread:
            self.pulse()

    def finished(self, record: Record) -> None:
        """Note that the item is complete."""
        self._share[record.partition] = 1.0
        self._display.finished(record)

    def pulse(self) -> None:
        """Publish what was noted, if the last time is long enough ago."""
        if self._artifact is not None and time.monotonic() - self._published >= UPDATE_EVERY:
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
