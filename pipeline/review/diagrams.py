"""Lays out the overview's diagrams as plain geometry, which the template draws with attributes, classes and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.charts import Axes, Plot, Tick, plot
from pipeline.review.run_progress import StepProgress

AXES = Axes(width=420, height=210, left=52, right=10, top=22, bottom=36)
"""Size and margins of a diagram, in the units of its viewBox (templates/diagrams.html)."""
_NODE = 152, 48
_GAP = 18, 34
"""Gaps between the nodes of a layer, and between layers."""


@dataclass(frozen=True)
class Histogram:
    """A histogram with a logarithmic y axis. Each column highlights a part of its count."""

    columns: tuple[tuple[Any, ...], ...]
    """Outer and inner rectangle of each (x, y, width, height), tooltip and link target, "" for none."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class StepNode:
    """A step in the graph: its upper left corner and its progress."""

    x: float
    y: float
    progress: StepProgress


@dataclass(frozen=True)
class Graph:
    """The steps from top to bottom, and an arrow (an SVG path) from each step to those that need it.

    Transitive needs have no arrow.
    """

    width: float
    height: float
    nodes: tuple[StepNode, ...]
    arrows: tuple[str, ...]
    node_width: float = _NODE[0]
    node_height: float = _NODE[1]


def histogram(rows: Sequence[tuple[int, int, str, str]], ticks: Sequence[tuple[float, str]]) -> Histogram:
    """Columns of equal width, as high as the logarithms of the counts.

    `rows`: (count, part of it to highlight, tooltip, address). `ticks`: (position on the x axis, in columns; label).
    """
    number = max(len(rows), 1)
    power = max(1, math.ceil(math.log10(max((count for count, *_ in rows), default=1) + 1)))

    def box(place: int, count: int) -> tuple[float, float, float, float]:
        left, right = AXES.x(place, number) + 1, AXES.x(place + 1, number) - 1
        top = AXES.y(math.log10(count + 1), high=power)
        return round(left, 1), top, round(right - left, 1), round(AXES.y(0) - top, 1)

    return Histogram(
        tuple((box(at, count), box(at, part), *words) for at, (count, part, *words) in enumerate(rows)),
        tuple(Tick(AXES.x(place, number), text) for place, text in ticks),
        tuple(Tick(AXES.y(math.log10(10**p + 1), high=power), _power(p)) for p in range(power)),
    )


def shares(points: Sequence[tuple[Any, ...]]) -> Plot:
    """A plot of points (x, y, tooltip, ...) with coordinates from 0 to 1."""
    ticks = [(place / 5, f"{place / 5:g}") for place in range(6)]
    return plot(AXES, points, ticks, ticks)


def long_tail(counts: Sequence[int]) -> Plot:
    """Counts in descending order against their rank, both logarithmic. Zeros are omitted."""
    found = [count for count in counts if count]
    powers = [max(1, math.ceil(math.log10(max(value, 2)))) for value in (len(found), max(found, default=1))]
    spaced = {round(10 ** (step / 40)) for step in range(40 * powers[0])} | {len(found)}
    ranks = sorted(rank for rank in spaced if 1 <= rank <= len(found))
    points = ((math.log10(rank), math.log10(found[rank - 1]), f"rank {rank:,}: {found[rank - 1]:,}") for rank in ranks)
    x_ticks, y_ticks = ([(power, _power(power)) for power in range(high + 1)] for high in powers)
    return plot(AXES, points, x_ticks, y_ticks, *powers)


def graph(steps: Sequence[StepProgress]) -> Graph:
    """Lays the steps out in layers: each step is one layer below the lowest step that it needs."""
    depth: dict[str, int] = {}
    for step in steps:
        depth[step.step] = 1 + max((depth.get(name, -1) for name in step.needs), default=-1)
    layers: dict[int, list[StepProgress]] = {}
    for step in steps:
        layers.setdefault(depth[step.step], []).append(step)
    width = max((len(layer) for layer in layers.values()), default=1) * (_NODE[0] + _GAP[0]) + _GAP[0]
    nodes = {
        step.step: StepNode(
            round((width - len(layer) * (_NODE[0] + _GAP[0]) + _GAP[0]) / 2 + place * (_NODE[0] + _GAP[0]), 1),
            4 + row * (_NODE[1] + _GAP[1]),
            step,
        )
        for row, layer in layers.items()
        for place, step in enumerate(layer)
    }
    above: dict[str, set[str]] = {}
    arrows: list[str] = []
    for step in steps:
        indirect = {name for needed in step.needs for name in above.get(needed, ())}
        above[step.step] = indirect | set(step.needs)
        direct = (name for name in step.needs if name in nodes and name not in indirect)
        arrows += (_arrow(nodes[name], nodes[step.step]) for name in direct)
    return Graph(width, len(layers) * (_NODE[1] + _GAP[1]) - _GAP[1] + 8, tuple(nodes.values()), tuple(arrows))


def _arrow(upper: StepNode, lower: StepNode) -> str:
    x0, y0 = upper.x + _NODE[0] / 2, upper.y + _NODE[1]
    x1, y1 = lower.x + _NODE[0] / 2, lower.y - 3
    if lower.y - upper.y > _NODE[1] + _GAP[1] and abs(x0 - x1) < _NODE[0]:
        # Go around the nodes in between, on their right.
        x0, x1 = x0 + 0.4 * _NODE[0], x1 + 0.4 * _NODE[0]
        aside = max(x0, x1) + 0.1 * _NODE[0] + 0.55 * _GAP[0]
        out = f"C{x0:.0f},{y0 + 22:.0f} {aside:.0f},{y0 + 8:.0f} {aside:.0f},{y0 + 34:.0f}"
        back = f"C{aside:.0f},{y1 - 8:.0f} {x1:.0f},{y1 - 22:.0f} {x1:.0f},{y1:.0f}"
        return f"M{x0:.0f},{y0:.0f} {out} V{y1 - 34:.0f} {back}"
    bend = (y1 - y0) / 2
    return f"M{x0:.0f},{y0:.0f} C{x0:.0f},{y0 + bend:.0f} {x1:.0f},{y1 - bend:.0f} {x1:.0f},{y1:.0f}"


def _power(exponent: int) -> str:
    """A power of ten, abbreviated for an axis."""
    millions, rest = divmod(exponent, 6)
    return f"{10**rest if rest < 4 else 10 ** (rest - 3)}{'k' if rest > 3 else ''}{'M' * millions}"
