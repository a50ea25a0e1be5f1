"""What a person sees while a run works: bars on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline.run.planner import StepPlan
from pipeline.run.throughput import Throughput
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.stage import WHOLE

LINE_EVERY = 10.0
"""Seconds between plain progress lines of one step."""


class Display(Protocol):
    """Where the runners tell how far they are. Safe to call from any thread."""

    def drawing(self, done: int, total: int) -> None:
        """The made world is being written: so many scenes of all."""

    def reading(self, dataset: str, share: float) -> None:
        """A data set's annotations are read for the first time: this share of them, 0 to 1."""

    def step(self, plan: StepPlan) -> None:
        """A step begins."""

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """An item is `done` of `total` images (or training steps) far."""

    def finished(self, record: Record) -> None:
        """An item is committed."""

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """A step ends."""


class Lines:
    """Plain lines: one when a step begins, one every ten seconds, one when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = 0.0
        self._pace = Throughput(0)

    def drawing(self, done: int, total: int) -> None:
        """Say how many scenes are drawn, now and then."""
        if time.monotonic() - self._said >= LINE_EVERY or done == total:
            self._said = time.monotonic()
            self._console.print(f"scenes: {done}/{total} drawn", highlight=False)

    def reading(self, dataset: str, share: float) -> None:
        """Say how far the reading is, now and then."""
        if time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            self._console.print(f"{dataset}: annotations, {share:.0%} read", highlight=False)

    def step(self, plan: StepPlan) -> None:
        """Say what is due."""
        self._said = time.monotonic()
        self._pace = Throughput(len(plan.due))
        self._console.print(f"{plan.step.name}: {len(plan.cached)} cached, {len(plan.due)} to do", highlight=False)

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Say how far an item is, how fast the step goes and when it will be done, now and then."""
        self._pace.tell(item.partition, done, total)
        if time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            told = ", ".join(text for text in (note, self._pace.in_words(_unit(item))) if text)
            self._console.print(f"{item.step} {item.partition}: {done}/{total} {told}".rstrip(), highlight=False)

    def finished(self, record: Record) -> None:
        """Count it; the step's last line tells of it."""
        self._pace.finish(record.partition)

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Say what came out."""
        if plan.due:
            self._console.print(f"{plan.step.name}: {summary(plan, records, seconds)}", highlight=False)


class Bars:
    """One bar a step, in images for a partition's stage and in training steps for a whole-set stage."""

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
        """A bar of its own."""
        self._bars.start()
        if self._bar is None:
            self._bar = self._bars.add_task("scenes", total=total, note="")
        self._bars.update(self._bar, completed=done)

    def reading(self, dataset: str, share: float) -> None:
        """A bar of its own, in percent."""
        self._bars.start()
        if dataset not in self._read:
            self._read[dataset] = self._bars.add_task(dataset, total=100, note="annotations, read once")
        self._bars.update(self._read[dataset], completed=round(100 * share))

    def step(self, plan: StepPlan) -> None:
        """A new bar, at the share that is cached."""
        self._bars.start()
        self._share = {record.partition: 1.0 for record in plan.cached}
        self._pace = Throughput(len(plan.due))
        self._bar = self._bars.add_task(plan.step.name, total=plan.partitions, completed=len(plan.cached), note="")

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Move the bar by the item's share."""
        assert self._bar is not None
        self._share[item.partition] = done / max(total, 1)
        self._pace.tell(item.partition, done, total)
        note = ", ".join(text for text in (self._pace.in_words(_unit(item)), note) if text)
        if item.partition == WHOLE:
            self._bars.update(self._bar, completed=done, total=total, note=note)
        else:
            self._bars.update(self._bar, completed=round(sum(self._share.values()), 2), note=note)

    def finished(self, record: Record) -> None:
        """The item's share is whole."""
        assert self._bar is not None
        self._share[record.partition] = 1.0
        self._pace.finish(record.partition)
        if record.partition != WHOLE:
            self._bars.update(self._bar, completed=round(sum(self._share.values()), 2))

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Fill the bar and say what came out."""
        assert self._bar is not None
        total = self._bars.tasks[self._bar].total
        self._bars.update(self._bar, completed=total, note=summary(plan, records, seconds))
        self._bars.stop_task(self._bar)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()


class JsonLines:
    """One JSON object a line, for machines."""

    def __init__(self) -> None:
        self._said = 0.0
        self._pace = Throughput(0)

    def drawing(self, done: int, total: int) -> None:
        """Event `drawing`, at most five a second."""
        if time.monotonic() - self._said >= 0.2 or done == total:
            self._said = time.monotonic()
            _say(event="drawing", done=done, total=total)

    def reading(self, dataset: str, share: float) -> None:
        """Event `reading`, at most five a second."""
        if time.monotonic() - self._said >= 0.2:
            self._said = time.monotonic()
            _say(event="reading", dataset=dataset, share=round(share, 3))

    def step(self, plan: StepPlan) -> None:
        """Event `step`."""
        self._pace = Throughput(len(plan.due))
        _say(event="step", step=plan.step.name, cached=len(plan.cached), due=len(plan.due))

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Event `progress`, at most five a second, with the step's images (or training steps) a second."""
        self._pace.tell(item.partition, done, total)
        if time.monotonic() - self._said >= 0.2:
            self._said = time.monotonic()
            left = self._pace.seconds_left
            _say(
                event="progress", step=item.step, partition=item.partition, done=done, total=total, note=note,
                rate=round(self._pace.rate, 3), seconds_left=None if left is None else round(left, 1),
            )  # fmt: skip

    def finished(self, record: Record) -> None:
        """Event `committed`."""
        self._pace.finish(record.partition)
        _say(event="committed", step=record.step, partition=record.partition, key=record.key, seconds=record.seconds)

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Event `done`."""
        _say(event="done", step=plan.step.name, seconds=round(seconds, 3), rows_out=sum(r.rows_out for r in records))


def _unit(item: WorkItem) -> str:
    return "steps" if item.partition == WHOLE else "images"


def summary(plan: StepPlan, records: Sequence[Record], seconds: float) -> str:
    """One line: rows, rate, what was cached."""
    if not plan.due:
        return "cached"
    fresh = [record for record in records if not record.cached]
    seen = sum(record.seen for record in fresh)
    rate = seen / max(seconds, 1e-9)
    return f"{seen} images, {rate:.{0 if rate >= 10 else 2}f} images/s, {seconds:.1f} s"


@contextmanager
def open_display(console: Console, as_json: bool) -> Iterator[Display]:
    """The display that fits where the output goes."""
    if as_json:
        yield JsonLines()
    elif console.is_terminal:
        bars = Bars(console)
        try:
            yield bars
        finally:
            bars.stop()
    else:
        yield Lines(console)


def _say(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()
