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

    def busy(self, what: str) -> None:
        """Something begins that may take seconds and tells nothing meanwhile, e.g. "starting Prefect"."""

    def drawing(self, done: int, total: int) -> None:
        """`done` of `total` scenes of the synthetic world are written."""

    def reading(self, dataset: str, share: float) -> None:
        """This share (0 to 1) of the annotations of a dataset is read; they are read only once."""

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
        self._pace = Throughput({})
        self._later: float | None = None
        self._waits: set[str] = set()

    def busy(self, what: str) -> None:
        """Write it."""
        self._write(what)

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
        self._pace, self._later = Throughput(plan.images), plan.later
        held = f", {len(plan.held)} left out after a failed check" if plan.held else ""
        loading = f"; {_loading(plan)}" if _loading(plan) else ""
        self._write(f"{plan.step.name}: {len(plan.cached)} cached, {len(plan.due)} due{held}{loading}")

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Write what an item waits for at once; the progress, rate and remaining time of the step at intervals."""
        if note and not done:
            if (waits := f"{item.step} {item.partition}: {note}") not in self._waits:
                self._waits.add(waits)
                self._write(waits)
            return
        self._pace.update(item.partition, done, total)
        if self._is_due():
            done, total = (done, total) if item.partition == WHOLE else self._pace.images
            unit = _unit(item)
            details = ", ".join(text for text in (note, self._pace.in_words(unit, self._later)) if text)
            self._write(f"{item.step}: {done:,} of {total:,} {unit}{', ' if details else ''}{details}")

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
    """Shows one bar per step, in images or, for a whole-set stage, in training steps."""

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
        self._busy: TaskID | None = None
        self._cached = 0
        self._read: dict[str, TaskID] = {}
        self._pace = Throughput({})
        self._later: float | None = None

    def busy(self, what: str) -> None:
        """Show it below the bars until something else begins."""
        self._rest()
        self._bars.start()
        self._busy = self._bars.add_task("", total=None, note=what)

    def _rest(self) -> None:
        """Remove what is shown until something else begins."""
        if self._busy is not None:
            self._bars.remove_task(self._busy)
        self._busy = None

    def drawing(self, done: int, total: int) -> None:
        """Move the bar of the scenes."""
        self._rest()
        self._bars.start()
        if self._bar is None:
            self._bar = self._bars.add_task("scenes", total=total, note="")
        self._bars.update(self._bar, completed=done)

    def reading(self, dataset: str, share: float) -> None:
        """Move the bar of this dataset, in percent."""
        self._rest()
        self._bars.start()
        if dataset not in self._read:
            self._read[dataset] = self._bars.add_task(dataset, total=100, note="reading annotations (once)")
        self._bars.update(self._read[dataset], completed=round(100 * share))

    def warn(self, text: str) -> None:
        """Print the warning above the bars."""
        self._bars.console.print(f"warning: {text}", markup=False, highlight=False)

    def step(self, plan: StepPlan) -> None:
        """Add a bar that starts at the images of the cached partitions."""
        self._rest()
        self._bars.start()
        self._cached = sum(record.rows_in for record in plan.cached)
        self._pace, self._later = Throughput(plan.images), plan.later
        total = None if WHOLE in plan.images else self._cached + sum(plan.images.values())
        self._bar = self._bars.add_task(plan.step.name, total=total, completed=self._cached, note=_loading(plan))

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Move the bar to the new share of the item."""
        assert self._bar is not None
        if note and not done:
            self._bars.update(self._bar, note=note)
            return
        self._pace.update(item.partition, done, total)
        note = ", ".join(text for text in (self._pace.in_words(_unit(item), self._later), note) if text)
        if item.partition == WHOLE:
            self._bars.update(self._bar, completed=done, total=total, note=note)
        else:
            self._bars.update(self._bar, completed=self._cached + self._pace.images[0], note=note)

    def finished(self, record: Record) -> None:
        """Count the item as complete."""
        assert self._bar is not None
        self._pace.finish(record.partition)
        if record.partition != WHOLE:
            self._bars.update(self._bar, completed=self._cached + self._pace.images[0])

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Fill the bar and show a summary of the step."""
        assert self._bar is not None
        task = next(task for task in self._bars.tasks if task.id == self._bar)
        total = task.total or max(task.completed, 1)
        self._bars.update(self._bar, completed=total, total=total, note=summary(plan, records, seconds))
        self._bars.stop_task(self._bar)

    def stop(self) -> None:
        """Stop drawing and restore the terminal."""
        self._bars.stop()


class JsonLines:
    """Prints one JSON object per line, for machines."""

    def __init__(self) -> None:
        self._printed_at = 0.0
        self._pace = Throughput({})
        self._later: float | None = None

    def busy(self, what: str) -> None:
        """Emit event `busy`."""
        _emit(event="busy", what=what)

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
        self._pace, self._later = Throughput(plan.images), plan.later
        _emit(
            event="step", step=plan.step.name, cached=len(plan.cached), due=len(plan.due), left_out=len(plan.held)
        )  # fmt: skip

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Emit event `progress`, at most five per second, with the rate of the step in images (or training steps) per second."""
        self._pace.update(item.partition, done, total)
        if time.monotonic() - self._printed_at >= 0.2:
            self._printed_at = time.monotonic()
            left, later = self._pace.seconds_left, self._later
            _emit(
                event="progress", step=item.step, partition=item.partition, done=done, total=total, note=note,
                rate=round(self._pace.rate, 3), seconds_left=None if left is None else round(left, 1),
                run_seconds_left=None if left is None or later is None else round(left + later, 1),
            )  # fmt: skip

    def finished(self, record: Record) -> None:
        """Emit event `committed`."""
        self._pace.finish(record.partition)
        _emit(event="committed", step=record.step, partition=record.partition, key=record.key, seconds=record.seconds)

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Emit event `done`."""
        _emit(event="done", step=plan.step.name, seconds=round(seconds, 3), rows_out=sum(r.rows_out for r in records))


def _loading(plan: StepPlan) -> str:
    """What is loaded before the first image, e.g. "loading the captioner"; "" if that takes no time."""
    return f"loading {plan.step.stage.loads}" if plan.due and plan.step.stage.loads else ""


def _unit(item: WorkItem) -> str:
    return "steps" if item.partition == WHOLE else "images"


def summary(plan: StepPlan, records: Sequence[Record], seconds: float) -> str:
    """One line with images and their rate, if the step has any, and its seconds; or "cached"."""
    if not plan.due:
        return "cached"
    fresh = [record for record in records if not record.cached]
    seen = sum(record.seen for record in fresh)
    rate = seen / max(seconds, 1e-9)
    images = f"{seen} images, {rate:.{0 if rate >= 10 else 2}f} images/s, " if seen else ""
    return f"{images}{seconds:.1f} s"


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
