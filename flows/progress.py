"""Publishes the progress of a flow run as an artifact in Prefect."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from pipeline.run.planner import StepPlan
from pipeline.run.progress import Display, summary
from pipeline.runtime.execute import Record, WorkItem

UPDATE_EVERY = 1.0
"""Seconds between two updates of the artifact. Each update is a request to the server."""


def artifact_key(*parts: str) -> str:
    """Key of a Prefect artifact, e.g. `progress-demo-shard-pseudo`: lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class ProgressArtifact(Display):
    """Publishes the progress of one step as an artifact in Prefect.

    Progress may come from any thread. Only the thread that created this object may call `pulse`, which publishes it.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._thread = threading.get_ident()
        self._artifact: UUID | None = None
        self._partitions = 0
        self._share: dict[str, float] = {}
        self._published = 0.0

    def step(self, plan: StepPlan) -> None:
        """Create the artifact, starting at the share that is cached."""
        self._partitions = plan.partitions
        self._share = {record.partition: 1.0 for record in plan.cached}
        key = artifact_key("progress", self._run, plan.step.name)
        note = f"{plan.step.name}: {len(plan.cached)} of {plan.partitions} partitions cached"
        self._artifact = cast(UUID, create_progress_artifact(self._percent(), key, note))
        self._published = time.monotonic()

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Note the share of an item. A whole-set stage reports on the thread of the flow run and is published at once."""
        self._share[item.partition] = done / max(total, 1)
        if threading.get_ident() == self._thread:
            self.pulse()

    def finished(self, record: Record) -> None:
        """Note that the item is complete."""
        self._share[record.partition] = 1.0

    def pulse(self) -> None:
        """Publish the progress if the last update is at least `UPDATE_EVERY` seconds ago."""
        if self._artifact is not None and time.monotonic() - self._published >= UPDATE_EVERY:
            self._published = time.monotonic()
            update_progress_artifact(self._artifact, self._percent())

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Publish the summary of the step."""
        if self._artifact is not None and plan.due:
            description = f"{plan.step.name}: {summary(plan, records, seconds)}"
            update_progress_artifact(self._artifact, 100.0, description)

    def _percent(self) -> float:
        return round(100 * sum(self._share.copy().values()) / max(self._partitions, 1), 1)
