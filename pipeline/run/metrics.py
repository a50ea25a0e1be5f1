"""Prometheus metrics of a run in progress: in a file for the textfile collector, or on a loopback port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.planner import StepPlan
from pipeline.run.progress import Display, Displays
from pipeline.run.recipe import Recipe
from pipeline.runtime.execute import Record
from storage.errors import FatalError

if TYPE_CHECKING:  # few runs have metrics
    from prometheus_client import CollectorRegistry

HOST = "127.0.0.1"
WRITE_EVERY = 1.0
"""Seconds between updates of the file while partitions finish."""
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
"""Upper bounds of the histogram of seconds per partition."""


class Metrics(Display):
    """Counts the events of a run. Values are of this execution: cached partitions add no rows."""

    def __init__(self, run: str, registry: CollectorRegistry, file: Path | None) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._run, self._registry, self._file = run, registry, file
        self._lock, self._written = threading.Lock(), 0.0
        self._running = Gauge("rlip_run_running", "1 while the run is in progress", ["run"], registry=registry)
        self._failed = Gauge("rlip_run_failed", "1 after the run failed or was stopped", ["run"], registry=registry)
        step = ["run", "step"]
        self._due = Gauge("rlip_partitions_due", "Partitions that remain to be computed", step, registry=registry)
        self._partitions = Counter(
            "rlip_partitions",
            "Partitions by state: computed, cached, left_out (held back after a failed check)",
            [*step, "state"],
            registry=registry,
        )
        self._rows = Counter(
            "rlip_rows", "Rows of computed partitions: in, out", [*step, "direction"], registry=registry
        )
        self._rejected = Counter(
            "rlip_rejected", "Quarantined rows and items of computed partitions", [*step, "reason"], registry=registry
        )
        self._seconds = Histogram(
            "rlip_partition_seconds", "Seconds to compute a partition", step, buckets=SECONDS, registry=registry
        )
        self._running.labels(run).set(1)
        self._failed.labels(run).set(0)

    def step(self, plan: StepPlan) -> None:
        """Count what is due, cached and held back."""
        labels = (self._run, plan.step.name)
        self._due.labels(*labels).set(len(plan.due))
        for state, number in (("computed", 0), ("cached", len(plan.cached)), ("left_out", len(plan.held))):
            self._partitions.labels(*labels, state).inc(number)
        self.write()

    def finished(self, record: Record) -> None:
        """Count a partition with its rows and rejects, or as cached where another run has made it in the meantime."""
        labels = (self._run, record.step)
        self._due.labels(*labels).dec()
        self._partitions.labels(*labels, "cached" if record.cached else "computed").inc()
        if not record.cached:
            self._seconds.labels(*labels).observe(record.seconds)
            self._rows.labels(*labels, "in").inc(record.rows_in)
            self._rows.labels(*labels, "out").inc(record.rows_out)
            for reason, number in record.rejected.items():
                self._rejected.labels(*labels, reason).inc(number)
        with self._lock:
            is_due = time.monotonic() - self._written >= WRITE_EVERY
        if is_due:
            self.write()

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Write the counts of the step."""
        self.write()

    def end(self, failed: bool) -> None:
        """Note how the run ended."""
        self._running.labels(self._run).set(0)
        self._failed.labels(self._run).set(failed)
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all. Raises `FatalError` when it can't be written."""
        if self._file is None:
            return
        from prometheus_client import write_to_textfile

        with self._lock:
            self._written = time.monotonic()
            try:
                write_to_textfile(str(self._file), self._registry)
            except OSError as error:
                raise FatalError(
                    f"run.metrics_file = {self._file} can't be written ({error.strerror}); name a file in an "
                    "existing folder that you may write to"
                ) from error


@contextmanager
def measured(recipe: Recipe, display: Display) -> Iterator[Display]:
    """The display, and metrics where the recipe asks for them. A port is served while the context lasts.

    Raises `FatalError` for a port that is taken and for a file that can't be written.
    """
    port, file = recipe.run.metrics_port, recipe.run.metrics_file
    if port is None and file is None:
        yield display
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    metrics = Metrics(recipe.name, registry, file)
    metrics.write()
    with ExitStack() as stack:
        if port is not None:
            try:
                server, thread = start_http_server(port, HOST, registry)
            except OSError as error:
                raise FatalError(
                    f"run.metrics_port = {port}: {HOST}:{port} can't be opened ({error.strerror}); choose another port"
                ) from error
            # They are called in reverse order.
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        try:
            yield Displays(metrics, display)
        except BaseException:
            with suppress(FatalError):  # which would hide why the run ends
                metrics.end(failed=True)
            raise
        metrics.end(failed=False)
