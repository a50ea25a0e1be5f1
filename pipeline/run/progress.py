"""Shows the progress of a run: bars on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline.run.planner import StepPlan
from pipeline.run.throughput import Throughput
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.stage import WHOLE

LINE_EVERY = 10.0
"""Seconds between two progress lines of a step."""


class Display(Protocol):
    """Receives the progress of a run. Its methods may be called from any thread."""

    def drawing(self, done: int, total: int) -> None:
        """`done` of `total` scenes of the synthetic world are written."""

    def reading(self, dataset: str, share: float) -> None:
        """This share (0 to 1) of the annotations of a data set is read; they are read only once."""

    def warn(self, text: str) -> None:
        """Something looks wrong, and the run goes on."""

    def step(self, plan: StepPlan) -> None:
        """A step starts."""

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """`done` of `total` images (or training steps) of an item are finished."""

    def finished(self, record: Record) -> None:
        """An item is committed."""

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """A step ends."""


class Lines:
    """Writes plain lines: one when a step starts, one every ten seconds, one when it ends."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._written_at = 0.0
        self._pace = Throughput(0)

    def drawing(self, done: int, total: int) -> None:
        """Write how many scenes are drawn, at intervals."""
        if self._is_due() or done == total:
            self._write(f"scenes: {done}/{total} drawn")

    def reading(self, dataset: str, share: float) -> None:
        """Write how much of the annotations is read, at intervals."""
        if self._is_due():
            self._write(f"{dataset}: annotations, {share:.0%} read")

    def warn(self, text: str) -> None:
        """Write the warning."""
        self._write(f"warning: {text}")

    def step(self, plan: StepPlan) -> None:
        """Write how much is cached and due."""
        self._written_at = time.monotonic()
        self._pace = Throughput(len(plan.due))
        held = f", {len(plan.held)} left out after a failed check" if plan.held else ""
        self._write(f"{plan.step.name}: {len(plan.cached)} cached, {len(plan.due)} due{held}")

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Write the progress of an item, and the rate and remaining time of the step, at intervals."""
        self._pace.update(item.partition, done, total)
        if self._is_due():
            details = ", ".join(text for text in (note, self._pace.in_words(_unit(item))) if text)
            self._write(f"{item.step} {item.partition}: {done}/{total} {details}".rstrip())

    def finished(self, record: Record) -> None:
        """Count the item. The last line of the step reports the total."""
        self._pace.finish(record.partition)

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Write a summary of the step."""
        if plan.due:
            self._write(f"{plan.step.name}: {summary(plan, records, seconds)}")

    def _is_due(self) -> bool:
        due = time.monotonic() - self._written_at >= LINE_EVERY
        if due:
            self._written_at = time.monotonic()
        return due


class Bars:
    """Shows one bar per step, in partitions or, for a whole-set stage, in training steps."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._bar: TaskID | None = None
        self._share: dict[str, float] = {}
        self._read: dict[str, TaskID] = {}
        self._pace = Throughput(0)

    def drawing(self, done: int, total: int) -> None:
        """Move the bar of the scenes."""
        self._bars.start()
        if self._bar is None:
            self._bar = self._bars.add_task("scenes", total=total, note="")
        self._bars.update(self._bar, completed=done)

    def reading(self, dataset: str, share: float) -> None:
        """Move the bar of this data set, in percent."""
        self._bars.start()
        if dataset not in self._read:
            self._read[dataset] = self._bars.add_task(dataset, total=100, note="reading annotations (once)")
        self._bars.update(self._read[dataset], completed=round(100 * share))

    def warn(self, text: str) -> None:
        """Print the warning above the bars."""
        self._bars.console.print(f"warning: {text}", markup=False, highlight=False)

    def step(self, plan: StepPlan) -> None:
        """Add a bar that starts at the cached partitions."""
        self._bars.start()
        self._share = {record.partition: 1.0 for record in plan.cached}
        self._pace = Throughput(len(plan.due))
        self._bar = self._bars.add_task(plan.step.name, total=plan.partitions, completed=len(plan.cached), note="")

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Move the bar to the new share of the item."""
        assert self._bar is not None
        self._share[item.partition] = done / max(total, 1)
        self._pace.update(item.partition, done, total)
        note = ", ".join(text for text in (self._pace.in_words(_unit(item)), note) if text)
        if item.partition == WHOLE:
            self._bars.update(self._bar, completed=done, total=total, note=note)
        else:
            self._bars.update(self._bar, completed=round(sum(self._share.copy().values()), 2), note=note)

    def finished(self, record: Record) -> None:
        """Count the item as complete."""
        assert self._bar is not None
        self._share[record.partition] = 1.0
        self._pace.finish(record.partition)
        if record.partition != WHOLE:
            self._bars.update(self._bar, completed=round(sum(self._share.copy().values()), 2))

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Fill the bar and show a summary of the step."""
        assert self._bar is not None
        total = self._bars.tasks[self._bar].total
        self._bars.update(self._bar, completed=total, note=summary(plan, records, seconds))
        self._bars.stop_task(self._bar)

    def stop(self) -> None:
        """Stop drawing and restore the terminal."""
        self._bars.stop()


class JsonLines:
    """Prints one JSON object per line, for machines."""

    def __init__(self) -> None:
        self._printed_at = 0.0
        self._pace = Throughput(0)

    def drawing(self, done: int, total: int) -> None:
        """Emit event `drawing`, at most five per second."""
        if time.monotonic() - self._printed_at >= 0.2 or done == total:
            self._printed_at = time.monotonic()
            _emit(event="drawing", done=done, total=total)

    def reading(self, dataset: str, share: float) -> None:
        """Emit event `reading`, at most five per second."""
        if time.monotonic() - self._printed_at >= 0.2:
            self._printed_at = time.monotonic()
            _emit(event="reading", dataset=dataset, share=round(share, 3))

    def warn(self, text: str) -> None:
        """Emit event `warning`."""
        _emit(event="warning", text=text)

    def step(self, plan: StepPlan) -> None:
        """Emit event `step`."""
        self._pace = Throughput(len(plan.due))
        _emit(
            event="step", step=plan.step.name, cached=len(plan.cached), due=len(plan.due), left_out=len(plan.held)
        )  # fmt: skip

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Emit event `progress`, at most five per second, with the rate of the step in images (or training steps) per second."""
        self._pace.update(item.partition, done, total)
        if time.monotonic() - self._printed_at >= 0.2:
            self._printed_at = time.monotonic()
            left = self._pace.seconds_left
            _emit(
                event="progress", step=item.step, partition=item.partition, done=done, total=total, note=note,
                rate=round(self._pace.rate, 3), seconds_left=None if left is None else round(left, 1),
            )  # fmt: skip

    def finished(self, record: Record) -> None:
        """Emit event `committed`."""
        self._pace.finish(record.partition)
        _emit(event="committed", step=record.step, partition=record.partition, key=record.key, seconds=record.seconds)

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Emit event `done`."""
        _emit(event="done", step=plan.step.name, seconds=round(seconds, 3), rows_out=sum(r.rows_out for r in records))


def _unit(item: WorkItem) -> str:
    return "steps" if item.partition == WHOLE else "images"


def summary(plan: StepPlan, records: Sequence[Record], seconds: float) -> str:
    """One line with images, rate and seconds of the step, or "cached"."""
    if not plan.due:
        return "cached"
    fresh = [record for record in records if not record.cached]
    seen = sum(record.seen for record in fresh)
    rate = seen / max(seconds, 1e-9)
    return f"{seen} images, {rate:.{0 if rate >= 10 else 2}f} images/s, {seconds:.1f} s"


@contextmanager
def open_display(console: Console, as_json: bool) -> Iterator[Display]:
    """The display that suits the output: JSON lines, bars on a terminal, or plain lines."""
    if as_json:
        yield JsonLines()
    elif console.is_terminal:
        bars = Bars(console)
        try:
            yield bars
        finally:
            bars.stop()
    else:
        yield Lines(partial(console.print, highlight=False))


def _emit(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()
