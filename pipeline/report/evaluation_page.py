"""Renders an evaluation, or a comparison of several, as one self-contained HTML page, and an evaluation as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.anatomy import Anatomy, ErrorKind
from pipeline.evaluation.benchmark import ClassScore
from pipeline.evaluation.comparison import OVERLAPS, RECALLS, Comparison
from pipeline.evaluation.diagnostics import Reliability
from pipeline.evaluation.published import PublishedResult, Source
from pipeline.evaluation.summary import EvaluationSummary
from pipeline.report.charts import AXES, Plot, Series, lay_out, line_style, plot
from pipeline.report.evaluation_images import EvaluatedImages, best_and_worst_images
from pipeline.report.formatting import NAMES, count, shown_name, without_controls
from pipeline.report.page import page_templates, render_page

MARK = "rlip-evaluation"
"""Name of the meta element that marks an evaluation page; its content is the stamp."""
WORST = 12
"""Number of classes listed as the worst."""
IMAGES = 6
"""Number of best and of worst images."""
TILES = 4
MOST = 12
"""Number of classes listed as those that differ most."""


class PublishedRow(NamedTuple):
    """One row of the comparison. `cells` are percentages in the order of the columns; None if unknown."""

    method: str
    backbone: str
    """Empty for our own result"""
    cells: tuple[float | None, ...]
    note: int
    """Number of its source; 0 for our own result."""


@dataclass(frozen=True)
class PublishedTable:
    """Published results in one setting, after our own if the evaluation used that setting."""

    setting: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


def _cost_bars(anatomy: Anatomy) -> list[dict[str, Any]]:
    """Returns the kinds of errors that occur, most costly first. A repair that lowers the score has no bar.

    `length` is the cost relative to the largest, in [0, 1].
    """
    largest = max((*anatomy.costs.values(), 0.0)) or 1.0
    present = [kind for kind in ErrorKind if anatomy.counts[kind]]
    return [
        {
            "kind": kind.value, "explanation": NAMES["errors"][kind.value], "number": anatomy.counts[kind],
            "cost": anatomy.costs[kind], "length": max(anatomy.costs[kind], 0) / largest,
        }
        for kind in sorted(present, key=lambda kind: -anatomy.costs[kind])
    ]  # fmt: skip


_SHARES = [(quarter / 4, f"{25 * quarter}") for quarter in range(5)]
"""Ticks of an axis of shares, in percent."""


def _reliability_plot(found: Reliability) -> Plot:
    """The share of right predictions over their mean score, with one dot per non-empty bin."""
    points = (
        (
            each.confidence,
            each.precision,
            f"score {each.low:.1f} to {each.high:.1f}: {each.precision:.1%} of {each.predictions} are right",
            "dot",
        )
        for each in found.bins
        if each.predictions
    )
    return plot(AXES, points, [(quarter / 4, f"{quarter / 4:g}") for quarter in range(5)], _SHARES)


def _class_plot(classes: Sequence[ClassScore], measure: str) -> Plot | None:
    """Each class's `measure` over its number of truths, on a logarithmic axis. None without classes."""
    known = [each for each in classes if each.truths > 0 and math.isfinite(each.average_precision)]
    if not known:
        return None
    decades = max(1, math.ceil(math.log10(max(each.truths for each in known))))
    groups = list(dict.fromkeys(each.group for each in known))
    points = (
        (
            math.log10(each.truths) / decades,
            each.average_precision,
            f"{each.name}: {measure} {100 * each.average_precision:.1f}, {each.truths} truths",
            f"dot dot-{min(groups.index(each.group), 3)}",
        )
        for each in known
    )
    return plot(AXES, points, [(power / decades, f"{10**power}") for power in range(decades + 1)], _SHARES)


def _class_groups(classes: Sequence[ClassScore]) -> list[tuple[str, int, float]]:
    """Returns each group of classes, its number of classes and its mean AP, in the order of the chart's colours."""
    groups = dict.fromkeys(each.group for each in classes)
    values = {name: [each.average_precision for each in classes if each.group == name] for name in groups}
    return [(name, len(found), float(np.mean(found))) for name, found in values.items()]


def evaluation_page(
    summary: EvaluationSummary,
    images: EvaluatedImages | None = None,
    count: int = IMAGES,
    *,
    home: str = "",
    stamp: str = "",
) -> str:
    """Renders the page of an evaluation as HTML. Given images, it shows the `count` best and worst.

    `home`: address of a page to link back to; `stamp`: the content of its mark. The page loads nothing, runs no script
    and shows all names as text.
    """
    best, worst = best_and_worst_images(images, count) if images else ([], [])
    return render_page(
        _TEMPLATES,
        "evaluation.html",
        ("report.css", "evaluation.css"),
        mark=MARK,
        stamp=stamp,
        home=home,
        tiles=summary.figures[:TILES],
        official=any(figure.official is not None for figure in summary.figures),
        intervals=any(figure.low is not None for figure in summary.figures),
        reliability=_reliability_plot(summary.calibration) if summary.calibration else None,
        chart=_class_plot(summary.classes, summary.measure),
        groups=_class_groups(summary.classes),
        predicates=_predicate_rows(summary),
        galleries=[("Best images", best), ("Worst images", worst)],
        **_tables_of(summary),
    )


def evaluation_markdown(summary: EvaluationSummary) -> str:
    """Returns the scores, the comparison, the costs of errors, the caveats and the classes as Markdown."""
    about = f"{summary.subject}, setting {summary.setting}"
    return _TEMPLATES.get_template("evaluation.md").render(about=about, **_tables_of(summary))


def _tables_of(summary: EvaluationSummary) -> dict[str, Any]:
    """What the page and the Markdown of an evaluation both show."""
    return {
        "summary": summary,
        "title": NAMES["benchmarks"].get(summary.benchmark, summary.benchmark),
        "tables": published_tables(summary),
        "sources": _sources(summary.published),
        "bars": _cost_bars(summary.anatomy),
        "worst_classes": summary.worst(WORST),
        "classes": sorted(summary.classes, key=lambda each: (-each.average_precision, each.name)),
    }


def published_tables(summary: EvaluationSummary) -> tuple[PublishedTable, ...]:
    """Returns the published results by setting, that of the evaluation first.

    Our own row has the official evaluator's value where it differs, since published values come from that evaluator.
    """
    settings = dict.fromkeys(result.setting for result in summary.published)
    sources = _sources(summary.published)
    ordered = sorted(settings, key=lambda setting: setting != summary.setting)
    tables = []
    for setting in ordered:
        results = [result for result in summary.published if result.setting == setting]
        found = dict.fromkeys(name for result in results for name in result.scores)
        names = [name for name in dict.fromkeys((*NAMES["published"], *found)) if name in found]
        rows = [
            PublishedRow(r.method, r.backbone, tuple(map(r.scores.get, names)), sources.index(r.source) + 1)
            for r in results
        ]
        if setting == summary.setting:
            values = {each.name: each.value if each.official is None else each.official for each in summary.figures}
            ours = (100 * values[name] if name in values else None for name in names)
            rows.insert(0, PublishedRow(summary.subject, "", tuple(ours), 0))
        tables.append(PublishedTable(setting, tuple(shown_name("published", name) for name in names), tuple(rows)))
    return tuple(tables)


def _sources(published: Sequence[PublishedResult]) -> list[Source]:
    return list(dict.fromkeys(result.source for result in published))


def _predicate_rows(summary: EvaluationSummary) -> list[ClassScore]:
    """Each predicate with its average precision on located pairs, worst first."""
    pairs = summary.pairs
    rows = [
        ClassScore(summary.predicates[number], value, pairs.predicate_truths[number])
        for number, value in pairs.predicate_precision.items()
    ]
    return sorted(rows, key=lambda each: (each.average_precision, each.name))


def _cell(cell: str) -> str:
    """Prevents a name from ending its table cell or line, or from becoming HTML."""
    return str(without_controls(cell)).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.2f}".replace("-", "−")


_TEMPLATES = page_templates(
    {
        "cell": _cell,
        "percent": _percent,
        "signed": _signed,
        "difference": lambda found: found.text(_signed),
        "percentage": lambda value: "–" if math.isnan(value) else f"{value:.1%}",
        "count": count,
    }
)


def comparison_page(comparison: Comparison, *, home: str = "", stamp: str = "") -> str:
    """Renders a comparison of models as HTML. `home` and `stamp` as in `evaluation_page`."""
    # Beyond its greatest recall, a model has no precision: there its line ends, and isn't drawn at 0.
    by_recall = [(RECALLS[: np.count_nonzero(each) or 1], np.array(each)) for each in comparison.precision]
    by_overlap = [(np.array(OVERLAPS), np.array(each)) for each in comparison.by_overlap]
    judged = [each for each in comparison.classes if not math.isnan(each.differences[0].low)]
    judged.sort(key=lambda each: (-max(abs(one.value) for one in each.differences), each.name))
    differences = [one for each in judged for one in each.differences]
    return render_page(
        _TEMPLATES,
        "comparison.html",
        ("report.css", "evaluation.css"),
        mark=MARK,
        stamp=stamp,
        home=home,
        title=NAMES["benchmarks"].get(comparison.benchmark, comparison.benchmark),
        found=comparison,
        columns=[*comparison.models, *(f"{name} − {comparison.models[0]}" for name in comparison.models[1:])],
        legend=[(name, line_style(number)) for number, name in enumerate(comparison.models)],
        charts=[
            (_chart("precision, all predictions in one ranking", comparison.models, by_recall), "recall"),
            (_chart(comparison.scored, comparison.models, by_overlap), "least IoU of right boxes"),
        ],
        most=judged[:MOST],
        clear=sum(one.leaves_out_zero for one in differences),
        judged=len(differences),
    )


def _chart(title: str, models: Sequence[str], curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Plot:
    lines = []
    for number, (name, (steps, values)) in enumerate(zip(models, curves, strict=True)):
        shown = np.nan_to_num(values[: len(steps)])
        lines.append((name, line_style(number), Series(name, steps, shown)))
    return lay_out(title, lines)
