"""The overview of a run: steps, funnel with every loss, and figures of its labels, each linked to what it counts.

Its diagrams are plain geometry, which the template draws with attributes, classes and text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np

from pipeline.labels.audit_sample import AuditPrecision
from pipeline.labels.label_funnel import LabelFunnel
from pipeline.report.charts import Axes, Plot, Tick, plot
from pipeline.report.formatting import shown_name
from pipeline.review.audit import ReviewerProgress
from pipeline.review.label_facts import MOST_AN_IMAGE, BinnedLabels, LabelFacts, PredicateFacts, ScoreAudit, label_facts
from pipeline.review.review_state import ReviewState
from pipeline.review.run_progress import StepProgress
from pipeline.review.search import LONGEST_NAME, Search

BARS = 20
"""Number of bins of the score histogram."""
MOST_PREDICATES = 20
"""Number of predicates in the table; the curve has all."""
_ADDRESSES = {"images": "images", "scored": "labels", "kept": f"labels?{Search(kept='yes').query()}"}


class Level(NamedTuple):
    """A level of the funnel. `address` lists its items.

    `losses`: why some of them led no further, how many, and the address that lists them, "" if no search finds them.
    """

    name: str
    number: int
    address: str
    losses: Sequence[tuple[str, int, str]]
    note: str = ""

    @property
    def lost(self) -> int:
        """Number of items that led no further."""
        return sum(number for _, number, _ in self.losses)


@dataclass(frozen=True)
class ReviewWork:
    """What a reviewer can do next."""

    labels: int
    """Labels of the audit in the reviewer's share."""
    judged: int
    minutes: float | None
    """Time left for the audit, at the reviewer's median pace; None without a timed verdict."""
    adjudication: int
    """Disagreements that the reviewer can settle."""
    checks: int
    """Labels of accepted classes in the reviewer's share that are to be asked."""
    team: tuple[ReviewerProgress, ...]
    """Everyone's share of the audit; empty without a team."""
    precision: AuditPrecision


def work_of(state: ReviewState, reviewer: str) -> ReviewWork:
    """What a reviewer can do next."""
    seat, progress = state.shares.seat(reviewer), state.shares.progress(reviewer)
    own = next((each for each in progress if each.name == reviewer), ReviewerProgress(reviewer, 0, 0))
    paces = [each.seconds for each in state.reviews.log.standing_of(reviewer) if each.seconds is not None]
    queues = Search(order="adjudication"), Search(order="check", share="mine")
    adjudication, checks = (state.listing.count_now(queue.seen_by(reviewer, seat)) for queue in queues)
    return ReviewWork(
        labels=own.labels,
        judged=own.judged,
        minutes=(own.labels - own.judged) * median(paces) / 60 if paces else None,
        adjudication=adjudication,
        checks=checks,
        team=tuple(progress) if state.shares.team is not None else (),
        precision=state.audit.precision(),
    )


def overview_of(state: ReviewState) -> dict[str, Any]:
    """What the overview page shows of a run's present state. Counts of all labels are cached until the run changes."""
    facts, steps = label_facts(state.index), state.progress.steps()
    score_rows = _score_rows(facts.scores)
    images = sum(facts.density)
    kept = sum(each.kept for each in facts.predicates)
    return {
        "steps": steps,
        "graph": graph(steps),
        "choice": state.view.choice.in_words(),
        "levels": list(_levels(facts.funnel, facts.quarantined)),
        "predicates": _bars(facts.predicates),
        "number_of_predicates": sum(each.kept > 0 for each in facts.predicates),
        "tail": long_tail([each.kept for each in facts.predicates]),
        "scores": _scores(score_rows),
        "score_rows": score_rows,
        "density": _density(facts),
        "mean_density": kept / images if images else None,
        "audits": [_audit_view(audit) for audit in facts.audits],
        "comparison": state.comparison.summary(),
        "differences": state.comparison.differences(),
    }


def _levels(funnel: LabelFunnel, quarantined: frozenset[str]) -> Iterator[Level]:
    for name, number in funnel.levels():
        lost = funnel.lost.get(name, {}).items()
        losses = [(reason, count, _loss_address(name, reason, quarantined)) for reason, count in lost]
        note = f"with {funnel.unproposed:,} that are no candidates" if name == "scored" and funnel.unproposed else ""
        yield Level(shown_name("levels", name), number, _ADDRESSES.get(name, ""), losses, note)


def _loss_address(level: str, reason: str, quarantined: frozenset[str]) -> str:
    if level == "scored":
        return f"labels?{Search(reason=reason).query()}"
    return f"quarantined?{urlencode({'reason': reason})}" if reason in quarantined else ""


def _bars(predicates: Sequence[PredicateFacts]) -> list[tuple[PredicateFacts, float, str]]:
    """The most frequent predicates, each with the length of its bar, a share of the longest on a logarithmic scale, and
    the address of its kept labels."""
    shown = [each for each in predicates if each.kept][:MOST_PREDICATES]
    longest = max((np.log10(each.kept + 1) for each in shown), default=1.0)
    return [(each, round(float(np.log10(each.kept + 1) / longest), 3), _kept_of(each.predicate)) for each in shown]


def _kept_of(predicate: str) -> str:
    """The address of a predicate's kept labels; "" if the predicate is too long for a search."""
    return "" if len(predicate) > LONGEST_NAME else f"labels?{Search(predicate=predicate, kept='yes').query()}"


def _score_rows(binned: BinnedLabels) -> list[tuple[str, int, int, str]]:
    """The histogram of scores as a table: bin, labels, kept labels, address."""
    return [
        (f"{place / BARS:.2f}", lost + kept, kept, f"labels?{_bin_search(place).query()}")
        for place, (lost, kept) in enumerate(binned.spread(BARS).tolist())
    ]


def _scores(rows: Sequence[tuple[str, int, int, str]]) -> Plot:
    ticks = [(place * BARS / 5, f"{place / 5:g}") for place in range(6)]
    drawn = [
        (labels, kept, f"from {least}: {labels:,} labels, {kept:,} kept", address if labels else "")
        for least, labels, kept, address in rows
    ]
    return histogram(drawn, ticks)


def _bin_search(place: int) -> Search:
    """The search for the labels of a bin. Searches include both bounds, so it ends just below the next bin."""
    least, after = place / BARS, (place + 1) / BARS
    return Search(least=least, most=1.0 if place + 1 == BARS else float(np.nextafter(after, 0.0)))


def _density(facts: LabelFacts) -> Plot:
    names = [f"{number}{'+' if number == MOST_AN_IMAGE else ''}" for number in range(MOST_AN_IMAGE + 1)]
    ticks = [(place + 0.5, names[place]) for place in range(0, MOST_AN_IMAGE + 1, 5)]
    counted = zip(names, facts.density, strict=True)
    return histogram([(images, images, f"{name} kept: {images:,} images", "") for name, images in counted], ticks)


def _audit_view(audit: ScoreAudit) -> dict[str, Any]:
    """The labels of one dataset compared with its ground truth.

    `marks`: x, y, tooltip and CSS class of single points next to the `curve`; `reliability`: how well scores and
    calibrated probabilities match the share of correct labels: name, calibration error and plot of each.
    """
    points = [
        (recall, precision, f"score ≥ {least:.2f}: precision {precision:.3f}, recall {recall:.3f}")
        for least, recall, precision in audit.curve()
    ]
    marks = [
        (recall, precision, f"{name}: precision {precision:.3f}, recall {recall:.3f}", style)
        for style, name, found in (("kept", "kept labels", audit.kept), ("naive", "naive matching", audit.naive))
        if (recall := found.recall()) is not None and (precision := found.precision()) is not None
    ]
    return {"audit": audit, "curve": shares(points), "marks": shares(marks).points, "reliability": _reliability(audit)}


def _reliability(audit: ScoreAudit) -> list[tuple[str, float, Plot]]:
    found = []
    for name, labels in (("scores", audit.score), ("calibrated probabilities", audit.probability)):
        error = labels.calibration_error()
        if error is not None:
            points = [
                (mean, share, f"mean {mean:.3f}, correct {share:.3f}, {n:,} labels")
                for mean, share, n in labels.reliability()
            ]
            found.append((name, error, shares(points)))
    # Uncalibrated labels have their scores as probabilities, which would be drawn twice.
    return found[:1] if np.array_equal(audit.score.totals, audit.probability.totals) else found


AXES = Axes(width=420, height=210, left=52, right=10, top=22, bottom=36)
"""Size and margins of a diagram, in the units of its viewBox (templates/diagrams.html)."""
_NODE = 152, 48
_GAP = 18, 34
"""Gaps between the nodes of a layer, and between layers."""


Node = tuple[float, float, StepProgress]
"""A step in the graph: its upper left corner (x, y) and its progress."""


@dataclass(frozen=True)
class Graph:
    """The steps from top to bottom, and an arrow (an SVG path) from each step to those that need it.

    Transitive needs have no arrow.
    """

    width: float
    height: float
    nodes: tuple[Node, ...]
    arrows: tuple[str, ...]
    node_width: float = _NODE[0]
    node_height: float = _NODE[1]


def histogram(rows: Sequence[tuple[int, int, str, str]], ticks: Sequence[tuple[float, str]]) -> Plot:
    """Columns of equal width, as high as the logarithms of the counts.

    `rows`: (count, part of it to highlight, tooltip, address). `ticks`: (position on the x axis, in columns; label).
    Returns outer and inner rectangle of each column (x, y, width, height), tooltip and link target, "" for none.
    """
    number = max(len(rows), 1)
    power = max(1, math.ceil(math.log10(max((count for count, *_ in rows), default=1) + 1)))

    def box(place: int, count: int) -> tuple[float, float, float, float]:
        left, right = AXES.x(place, number) + 1, AXES.x(place + 1, number) - 1
        top = AXES.y(math.log10(count + 1), high=power)
        return round(left, 1), top, round(right - left, 1), round(AXES.y(0) - top, 1)

    return Plot(
        tuple((box(at, count), box(at, part), *words) for at, (count, part, *words) in enumerate(rows)),
        tuple(Tick(AXES.x(place, number), text) for place, text in ticks),
        tuple(Tick(AXES.y(math.log10(10**p + 1), high=power), _power(p)) for p in range(power)),
        AXES,
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
        step.step: (
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


def _arrow(upper: Node, lower: Node) -> str:
    x0, y0 = upper[0] + _NODE[0] / 2, upper[1] + _NODE[1]
    x1, y1 = lower[0] + _NODE[0] / 2, lower[1] - 3
    if lower[1] - upper[1] > _NODE[1] + _GAP[1] and abs(x0 - x1) < _NODE[0]:
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
