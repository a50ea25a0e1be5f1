"""What a deployment's flow run logs while it works; a terminal has better means."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prefect import get_run_logger

from pipeline.run.planner import StepPlan
from pipeline.run.progress import LINE_EVERY, summary
from pipeline.runtime.execute import Record, WorkItem


class RunLog:
    """A display of log lines: one when a step begins, one every ten seconds, one when it ends."""

    def __init__(self) -> None:
        # Progress arrives on the engine's threads, which are outside the flow run: its logger is taken here, inside.
        self._log = get_run_logger()
        self._said = time.monotonic()

    def drawing(self, done: int, total: int) -> None:
        """Say how many scenes are drawn, now and then."""
        if time.monotonic() - self._said >= LINE_EVERY or done == total:
            self._said = time.monotonic()
            self._log.info("scenes: %d of %d drawn", done, total)

    def reading(self, dataset: str, share: float) -> None:
        """Say how far the reading of annotations is, now and then."""
        if time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            self._log.info("%s: annotations, %d%% read", dataset, 100 * share)

    def step(self, plan: StepPlan) -> None:
        """Say what is due."""
        self._log.info("%s: %d cached, %d to do", plan.step.name, len(plan.cached), len(plan.due))

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Say how far an item is, now and then."""
        if time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            self._log.info("%s %s: %d/%d %s", item.step, item.partition, done, total, note)

    def finished(self, record: Record) -> None:
        """Nothing: the step's last line counts them."""

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Say what came out."""
        self._log.info("%s: %s", plan.step.name, summary(plan, records, seconds))
