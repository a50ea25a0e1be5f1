"""Writes a comparison of models as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.evaluation.comparison import OVERLAPS, RECALLS, Comparison
from pipeline.report.charts import Chart, Line, Series, lay_out, line_style
from pipeline.report.evaluation_page import FILTERS, MARK, TITLES
from pipeline.report.page import render_page
from storage.atomic import write_atomic

MOST = 12
"""Number of classes listed as those that differ most."""


def write_comparison_page(comparison: Comparison, page: Path, *, home: str = "", stamp: str = "") -> None:
    """Writes the page. It loads nothing, runs no script and shows all names as text.

    `home` and `stamp` as in `write_evaluation_page`.
    """
    by_recall = [(RECALLS[: np.count_nonzero(each) or 1], np.array(each)) for each in comparison.precision]
    by_overlap = [(np.array(OVERLAPS), np.array(each)) for each in comparison.by_overlap]
    judged = [each for each in comparison.classes if not math.isnan(each.differences[0].low)]
    judged.sort(key=lambda each: (-max(abs(one.value) for one in each.differences), each.name))
    text = render_page(
        "comparison.html",
        ("report.css", "evaluation.css"),
        {**FILTERS, "difference": lambda found: found.text(FILTERS["signed"])},
        mark=MARK,
        stamp=stamp,
        home=home,
        title=TITLES.get(comparison.benchmark, comparison.benchmark),
        found=comparison,
        legend=[(name, line_style(number)) for number, name in enumerate(comparison.models)],
        charts=[
            (_chart("precision, all predictions in one ranking", comparison.models, by_recall), "recall"),
            (_chart(comparison.scored, comparison.models, by_overlap), "least IoU of right boxes"),
        ],
        most=judged[:MOST],
        clear=sum(any(one.leaves_out_zero for one in each.differences) for each in judged),
        judged=len(judged),
    )
    write_atomic(page, text.encode())


def _chart(title: str, models: Sequence[str], curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Chart:
    lines = []
    for number, (name, (steps, values)) in enumerate(zip(models, curves, strict=True)):
        shown = np.nan_to_num(values[: len(steps)])
        lines.append((Line(name, line_style(number), "", float(shown[-1])), Series(name, steps, shown)))
    return lay_out(title, lines)
