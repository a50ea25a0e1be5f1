"""Shows the progress of a run: bars on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline.run.planner import StepPlan
from pipeline.runtime.execute import Record, WorkItem
from pipeline.runtime.stage import WHOLE

LINE_EVERY = 10.0
"""Seconds between two progress lines of a step."""
EVENT_EVERY = 0.2
"""Seconds between two JSON lines of progress, and between two states of a bar."""


class Throughput:
    """Counts what the workers of a step do after their first report, so that loading and earlier work do not count.

    The time left follows from the share of images done. Cached partitions do not count. Any thread may call any method.
    """

    def __init__(self, images: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        """`images`: due partition → its number of images; any number for a step over whole datasets, which is alone."""
        self._images, self._clock = {partition: max(number, 1) for partition, number in images.items()}, clock
        self._done: dict[str, tuple[int, int]] = {}
        self._first: tuple[float, int, float] | None = None

    def update(self, partition: str, done: int, total: int) -> None:
        """Note that `done` of `total` images (or training steps) of a partition are finished."""
        self._done[partition] = (done, total)
        if self._first is None:
            self._first = (self._clock(), self._count(), self._share())

    def finish(self, partition: str) -> None:
        """Note that a partition is committed."""
        done, total = self._done.get(partition, (0, 0))
        self.update(partition, max(done, total), max(done, total))

    @property
    def rate(self) -> float:
        """Images (or training steps) per second; 0 before the first report."""
        if self._first is None:
            return 0.0
        began, count, _ = self._first
        return (self._count() - count) / max(self._clock() - began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all partitions are done at this rate; None if still unknown."""
        if self._first is None:
            return None
        began, _, before = self._first
        share = self._share()
        return (self._clock() - began) * (1 - share) / (share - before) if share > before else None

    @property
    def images(self) -> tuple[int, int]:
        """How many images of the due partitions are done, and how many there are."""
        total = sum(self._images.values())
        return round(self._share() * total), total

    def in_words(self, unit: str, later: float | None = None) -> str:
        """E.g. "4.2 images/s, 0:03:10 left, 0:20:00 for the run"; empty if unknown. `later`: seconds of later steps."""
        left = self.seconds_left
        if left is None:
            return ""
        whole = "" if later is None else f", {timedelta(seconds=round(left + later))} for the run"
        digits = 0 if self.rate >= 100 else 1 if self.rate >= 1 else 2
        return f"{self.rate:.{digits}f} {unit}/s, {timedelta(seconds=round(left))} left{whole}"

    def _count(self) -> int:
        return sum(done for done, _ in self._done.copy().values())

    def _share(self) -> float:
        done = self._done.copy().items()  # other threads add partitions at the same time
        shares = (self._images[part] * (count / total if total else 1.0) for part, (count, total) in done)
        return sum(shares) / max(sum(self._images.values()), 1)


class Display:
    """Receives the progress of a run. This one shows nothing; a subclass shows the events whose methods it overrides.

    Any thread may call any method.
    """

    def busy(self, what: str) -> None:
        """Something begins that may take seconds and reports nothing until it ends, e.g. "starting Prefect"."""

    def drawing(self, done: int, total: int) -> None:
        """`done` of `total` scenes of the synthetic world are written."""

    def reading(self, dataset: str, share: float) -> None:
        """This share (0 to 1) of the annotations of a dataset is read; they are read only once."""

    def warn(self, text: str) -> None:
        """Something looks wrong, but the run continues."""

    def step(self, plan: StepPlan) -> None:
        """A step starts."""

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """`done` of `total` images (or training steps) of an item are finished. With 0, only a `note` is new."""

    def finished(self, record: Record) -> None:
        """An item is committed."""

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """A step ends."""


class Displays(Display):
    """Passes every event on to several displays, in their order."""

    def __init__(self, *displays: Display) -> None:
        for event in [name for name in vars(Display) if not name.startswith("_")]:
            setattr(self, event, partial(self._pass_on, [getattr(display, event) for display in displays]))

    @staticmethod
    def _pass_on(methods: Sequence[Callable[..., None]], *values: object) -> None:
        for method in methods:
            method(*values)


class _Paced(Display):
    """A display that knows the rate of the step and how long it is since it last wrote something."""

    def __init__(self) -> None:
        self._pace = Throughput({})
        self._later: float | None = None
        self._written_at = 0.0

    def step(self, plan: StepPlan) -> None:
        self._pace, self._later = Throughput(plan.images), plan.later

    def finished(self, record: Record) -> None:
        self._pace.finish(record.partition)

    def _is_due(self, every: float) -> bool:
        """Whether nothing was written for `every` seconds; then something is now."""
        due = time.monotonic() - self._written_at >= every
        if due:
            self._written_at = time.monotonic()
        return due


class Lines(_Paced):
    """Writes plain lines: one when a step starts, one every ten seconds, one when it ends."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write
        self._waits: set[str] = set()

    def busy(self, what: str) -> None:
        """Write it at once."""
        self._write(what)

    def drawing(self, done: int, total: int) -> None:
        """Write how many scenes are drawn, at intervals."""
        if self._is_due(LINE_EVERY) or done == total:
            self._write(f"scenes: {done}/{total} drawn")

    def reading(self, dataset: str, share: float) -> None:
        """Write how much of the annotations is read, at intervals."""
        if self._is_due(LINE_EVERY):
            self._write(f"{dataset}: annotations, {share:.0%} read")

    def warn(self, text: str) -> None:
        """Write the warning at once."""
        self._write(f"warning: {text}")

    def step(self, plan: StepPlan) -> None:
        """Write how much is cached and due."""
        super().step(plan)
        self._written_at = time.monotonic()
        held = f", {len(plan.held)} held back after a failed check" if plan.held else ""
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
        if self._is_due(LINE_EVERY):
            done, total = (done, total) if item.partition == WHOLE else self._pace.images
            unit = _unit(item)
            details = ", ".join(text for text in (note, self._pace.in_words(unit, self._later)) if text)
            self._write(f"{item.step}: {done:,} of {total:,} {unit}{', ' if details else ''}{details}")

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        """Write a summary of the step."""
        if plan.due:
            self._write(f"{plan.step.name}: {summary(plan, records, seconds)}")


class _Bars(_Paced):
    """Shows one bar per step, in images or, for a whole-set stage, in training steps."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bars = Progress(
            TextColumn("{task.description:<16}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._bar: TaskID | None = None
        self._busy: TaskID | None = None
        self._cached = 0
        self._read: dict[str, TaskID] = {}

    def busy(self, what: str) -> None:
        self._begin()
        self._busy = self._bars.add_task("", total=None, note=what)

    def _begin(self) -> None:
        """Start drawing, and remove what is shown until something else begins."""
        if self._busy is not None:
            self._bars.remove_task(self._busy)
        self._busy = None
        self._bars.start()

    def drawing(self, done: int, total: int) -> None:
        self._begin()
        if self._bar is None:
            self._bar = self._bars.add_task("scenes", total=total, note="")
        self._bars.update(self._bar, completed=done)

    def reading(self, dataset: str, share: float) -> None:
        """Move the bar of this dataset, in percent."""
        self._begin()
        if dataset not in self._read:
            self._read[dataset] = self._bars.add_task(dataset, total=100, note="reading annotations (once)")
        self._bars.update(self._read[dataset], completed=round(100 * share))

    def warn(self, text: str) -> None:
        self._bars.console.print(f"warning: {text}", markup=False, highlight=False)

    def step(self, plan: StepPlan) -> None:
        super().step(plan)
        self._begin()
        self._cached = sum(record.rows_in for record in plan.cached)
        total = None if WHOLE in plan.images else self._cached + sum(plan.images.values())
        self._bar = self._bars.add_task(plan.step.name, total=total, completed=self._cached, note=_loading(plan))

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        """Move the bar to the new share of the item, at intervals."""
        assert self._bar is not None
        if note and not done:
            self._bars.update(self._bar, note=note)
            return
        self._pace.update(item.partition, done, total)
        # A state sums over all partitions, and workers report thousands of images a second.
        if item.partition != WHOLE and not self._is_due(EVENT_EVERY):
            return
        note = ", ".join(text for text in (self._pace.in_words(_unit(item), self._later), note) if text)
        if item.partition == WHOLE:
            self._bars.update(self._bar, completed=done, total=total, note=note)
        else:
            self._bars.update(self._bar, completed=self._cached + self._pace.images[0], note=note)

    def finished(self, record: Record) -> None:
        super().finished(record)
        assert self._bar is not None
        if record.partition != WHOLE:
            self._bars.update(self._bar, completed=self._cached + self._pace.images[0])

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        assert self._bar is not None
        task = next(task for task in self._bars.tasks if task.id == self._bar)
        total = task.total or max(task.completed, 1)
        self._bars.update(self._bar, completed=total, total=total, note=summary(plan, records, seconds))
        self._bars.stop_task(self._bar)

    def stop(self) -> None:
        self._bars.stop()


class _JsonLines(_Paced):
    """Prints one JSON object per line, for machines; those of progress at most five per second."""

    def busy(self, what: str) -> None:
        _emit(event="busy", what=what)

    def drawing(self, done: int, total: int) -> None:
        if self._is_due(EVENT_EVERY) or done == total:
            _emit(event="drawing", done=done, total=total)

    def reading(self, dataset: str, share: float) -> None:
        if self._is_due(EVENT_EVERY):
            _emit(event="reading", dataset=dataset, share=round(share, 3))

    def warn(self, text: str) -> None:
        _emit(event="warning", text=text)

    def step(self, plan: StepPlan) -> None:
        super().step(plan)
        counts = {"cached": len(plan.cached), "due": len(plan.due), "left_out": len(plan.held)}
        _emit(event="step", step=plan.step.name, **counts)

    def progress(self, item: WorkItem, done: int, total: int, note: str) -> None:
        if done or not note:
            self._pace.update(item.partition, done, total)
        if self._is_due(EVENT_EVERY):
            left, later = self._pace.seconds_left, self._later
            _emit(
                event="progress", step=item.step, partition=item.partition, done=done, total=total, note=note,
                rate=round(self._pace.rate, 3), seconds_left=None if left is None else round(left, 1),
                run_seconds_left=None if left is None or later is None else round(left + later, 1),
            )  # fmt: skip

    def finished(self, record: Record) -> None:
        super().finished(record)
        _emit(event="committed", step=record.step, partition=record.partition, key=record.key, seconds=record.seconds)

    def done(self, plan: StepPlan, records: Sequence[Record], seconds: float) -> None:
        _emit(event="done", step=plan.step.name, seconds=round(seconds, 3), rows_out=sum(r.rows_out for r in records))


def _loading(plan: StepPlan) -> str:
    """What is loaded before the first image, e.g. "loading the captioner"; "" if that takes no time."""
    return f"loading {plan.step.stage.loads}" if plan.due and plan.step.stage.loads else ""


def _unit(item: WorkItem) -> str:
    return "steps" if item.terms.stage in ("pretrain", "train_tagger") else "images"


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
    """The display that suits the output: JSON lines, bars where rich shows them, or plain lines."""
    if as_json:
        yield _JsonLines()
    elif (console.is_terminal and not console.is_dumb_terminal) or (console.is_jupyter and find_spec("ipywidgets")):
        bars = _Bars(console)
        try:
            yield bars
        finally:
            bars.stop()
    else:
        yield Lines(partial(console.print, markup=False, highlight=False, soft_wrap=True))


def _emit(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()
