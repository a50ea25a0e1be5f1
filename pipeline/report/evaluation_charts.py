"""Charts of an evaluation as plain geometry: cost of errors, reliability of scores, classes by frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.anatomy import Anatomy, ErrorKind
from pipeline.evaluation.benchmark import ClassScore
from pipeline.evaluation.diagnostics import Reliability
from pipeline.report.charts import AXES, Axes, Tick
from pipeline.report.names import NAMES


class CostBar(NamedTuple):
    """One kind of error. `length` is its cost relative to the largest, in [0, 1]."""

    kind: str
    explanation: str
    number: int
    cost: float
    length: float


def cost_bars(anatomy: Anatomy) -> list[CostBar]:
    """Returns the kinds of errors that occur, most costly first. A repair that lowers the score has no bar."""
    largest = max((*anatomy.costs.values(), 0.0)) or 1.0
    present = [kind for kind in ErrorKind if anatomy.counts[kind]]
    return [
        CostBar(
            kind.value,
            NAMES["errors"][kind.value],
            anatomy.counts[kind],
            anatomy.costs[kind],
            max(anatomy.costs[kind], 0) / largest,
        )
        for kind in sorted(present, key=lambda kind: -anatomy.costs[kind])
    ]


class Dot(NamedTuple):
    """A point of a chart and its tooltip."""

    x: float
    y: float
    text: str
    style: str


@dataclass(frozen=True)
class DotChart:
    """Dots over two axes, in drawing units; `diagonal` is the line of perfect calibration, as `x,y` pairs."""

    label: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    diagonal: str = ""
    axes: Axes = AXES


_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def reliability_chart(found: Reliability) -> DotChart:
    """Draws the share of right predictions over their mean score, with one dot per non-empty bin."""
    dots = tuple(
        Dot(
            AXES.x(each.confidence),
            AXES.y(each.precision),
            f"score {each.low:.1f} to {each.high:.1f}: {each.precision:.1%} of {each.predictions} are right",
            "dot",
        )
        for each in found.bins
        if each.predictions
    )
    ticks = tuple(Tick(AXES.x(value), f"{value:g}") for value in _QUARTERS)
    diagonal = f"{AXES.x(0):g},{AXES.y(0):g} {AXES.x(1):g},{AXES.y(1):g}"
    return DotChart("share of right predictions by score", dots, ticks, _share_ticks(), diagonal)


def class_chart(classes: Sequence[ClassScore], measure: str = "AP") -> DotChart | None:
    """Draws each class's `measure` over its number of truths, on a logarithmic axis. None without classes."""
    known = [each for each in classes if each.truths > 0 and math.isfinite(each.average_precision)]
    if not known:
        return None
    decades = max(1, math.ceil(math.log10(max(each.truths for each in known))))
    groups = list(dict.fromkeys(each.group for each in known))
    dots = tuple(
        Dot(
            AXES.x(math.log10(each.truths) / decades),
            AXES.y(each.average_precision),
            f"{each.name}: {measure} {100 * each.average_precision:.1f}, {each.truths} truths",
            f"dot dot-{min(groups.index(each.group), 3)}",
        )
        for each in known
    )
    ticks = tuple(Tick(AXES.x(power / decades), f"{10**power}") for power in range(decades + 1))
    return DotChart(f"{measure} by number of truths", dots, ticks, _share_ticks())


def class_groups(classes: Sequence[ClassScore]) -> list[tuple[str, int, float]]:
    """Returns each group of classes, its number of classes and its mean AP, in the order of the chart's colours."""
    groups = dict.fromkeys(each.group for each in classes)
    values = {name: [each.average_precision for each in classes if each.group == name] for name in groups}
    return [(name, len(found), float(np.mean(found))) for name, found in values.items()]


def _share_ticks() -> tuple[Tick, ...]:
    return tuple(Tick(AXES.y(value), f"{100 * value:g}") for value in _QUARTERS)
