"""Computes charts as plain geometry. The template draws them, so it escapes their text like all other text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipeline.labels.label_funnel import PredicateCount
from storage.artifact import Artifact
from storage.manifest import REJECTED_FILE
from storage.tables import METRICS, read_table


@dataclass(frozen=True)
class Series:
    """One named metric over training: N steps and N values."""

    name: str
    steps: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def thinned(self, points: int) -> Series:
        """Reduces the series to at most `points` points, each the mean of consecutive steps."""
        if len(self.steps) <= points:
            return self
        parts = np.array_split(np.arange(len(self.steps)), points)
        steps = np.array([self.steps[part].mean() for part in parts])
        values = np.array([self.values[part].mean() for part in parts])
        return Series(self.name, steps, values)


def series(artifact: Artifact) -> list[Series]:
    """All metrics of an artifact, ordered by step, without values that are not finite.

    Tables of metrics are recognised by their columns, not by file name.
    """
    found = []
    files = (artifact.file(name) for name in sorted(artifact.manifest.files) if name != REJECTED_FILE)
    for path in (file for file in files if file.suffix == ".parquet" and pq.read_schema(file).names == METRICS.names):
        table = read_table(path, METRICS)
        names = np.array(table["name"].to_pylist(), dtype=object)
        steps = table["step"].to_numpy().astype(np.float64)
        values = table["value"].to_numpy().astype(np.float64)
        for name in dict.fromkeys(names):
            chosen = np.flatnonzero((names == name) & np.isfinite(values))
            order = chosen[np.argsort(steps[chosen], kind="stable")]
            if len(order):
                found.append(Series(str(name), steps[order], values[order]))
    return found


@dataclass(frozen=True)
class Axes:
    """The size of a drawing and the margins of its plot, in drawing units. Maps values to positions on both axes."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    @property
    def end(self) -> int:
        """Where the x axis ends."""
        return self.width - self.right

    @property
    def floor(self) -> int:
        """Where the y axis begins."""
        return self.height - self.bottom

    def x(self, value: float, high: float = 1.0) -> float:
        """The position of a value on an x axis from 0 to `high`."""
        return round(self.left + (self.end - self.left) * value / high, 1)

    def y(self, value: float, low: float = 0.0, high: float = 1.0) -> float:
        """The position of a value on a y axis from `low`, at the bottom, to `high`."""
        return round(self.floor - (self.floor - self.top) * (value - low) / (high - low), 1)


AXES = Axes(width=340, height=180, left=44, right=10, top=10, bottom=24)
"""The axes of a report's charts."""
POINTS = 200
"""Points per line; more cannot be distinguished at this size."""
COLOURS = 8
"""Number of line colours in report.css. Further lines repeat them, dashed."""


class ChartLine(NamedTuple):
    """One line of a chart: legend, CSS classes for its colour, `x,y` pairs, and last value."""

    label: str
    style: str
    points: str
    last: float


class Tick(NamedTuple):
    """An axis tick: position and label."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """What is drawn over two axes: points with x, y, tooltip and perhaps CSS classes, lines, or a histogram's columns.

    `title` is empty where the page has its own.
    """

    points: tuple[tuple[Any, ...], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    axes: Axes
    title: str = ""


def plot(
    axes: Axes,
    points: Iterable[tuple[Any, ...]],
    x_ticks: Iterable[tuple[float, str]],
    y_ticks: Iterable[tuple[float, str]],
    x_high: float = 1.0,
    y_high: float = 1.0,
) -> Plot:
    """Lays out points and ticks (value, text) on axes from 0 to `x_high` and `y_high`."""
    return Plot(
        tuple((axes.x(x, x_high), axes.y(y, high=y_high), *rest) for x, y, *rest in points),
        tuple(Tick(axes.x(value, x_high), text) for value, text in x_ticks),
        tuple(Tick(axes.y(value, high=y_high), text) for value, text in y_ticks),
        axes,
    )


def line_style(number: int) -> str:
    """CSS classes of a line: a colour and, from the ninth line on, dashes."""
    return f"line-{number % COLOURS}" + (" dashed" if number >= COLOURS else "")


def lay_out(title: str, lines: Sequence[tuple[str, str, Series]]) -> Plot:
    """Lays out a chart of lines: label, CSS classes and a series of at least one point for each.

    Both axes start at 0, or lower for negative values.
    """
    thin = [each.thinned(POINTS) for *_, each in lines]
    x_high = max(float(each.steps[-1]) for each in thin) or 1.0
    low = min(0.0, *(float(each.values.min()) for each in thin))
    high = max(float(each.values.max()) for each in thin)
    y_ticks = nice_ticks(low, high if high > low else low + 1.0, 4)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    drawn = []
    for (label, style, whole), each in zip(lines, thin, strict=True):
        places = zip(each.steps, each.values, strict=True)
        points = " ".join(f"{AXES.x(step, x_high)},{AXES.y(value, low, high)}" for step, value in places)
        drawn.append(ChartLine(label, style, points, float(whole.values[-1])))
    return Plot(
        tuple(drawn),
        tuple(Tick(AXES.x(step, x_high), _short(step)) for step in nice_ticks(0, x_high, 4) if step <= x_high),
        tuple(Tick(AXES.y(value, low, high), _short(value)) for value in y_ticks),
        AXES,
        title,
    )


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that cover the range low..high (low < high)."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    # The small margins keep rounding from adding a tick to a range of whole ticks.
    width = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / width + 1e-9), math.ceil(high / width - 1e-9)
    return [round(i * width, 12) for i in range(first, last + 1)]


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.001:  # 1.5e-4 fits beside the axis, 0.00015 does not
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


MAX_BARS = 24


class Bar(NamedTuple):
    """The bar of one predicate. `kept_share` and `given_share` are lengths in [0, 1], relative to the longest bar."""

    predicate: str
    kept: int
    given: int
    kept_share: float
    given_share: float


def predicate_bars(predicates: Sequence[PredicateCount]) -> list[Bar]:
    """Bars of the most frequent predicates; the last bar sums up the rest."""
    shown = list(predicates[:MAX_BARS])
    rest = predicates[MAX_BARS:]
    if rest:
        name = f"{len(rest)} others"
        shown.append(PredicateCount(name, sum(p.kept for p in rest), sum(p.given for p in rest)))
    longest = max((max(p.kept, p.given) for p in shown), default=0) or 1
    return [Bar(p.predicate, p.kept, p.given, p.kept / longest, p.given / longest) for p in shown]
