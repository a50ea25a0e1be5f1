from __future__ import annotations

import numpy as np
import pytest
from run_builder import RunBuilder

from pipeline.labels.label_funnel import PredicateCount
from pipeline.report.charts import (
    AXES,
    MAX_BARS,
    POINTS,
    Line,
    Series,
    lay_out,
    nice_ticks,
    predicate_bars,
)
from pipeline.report.training_charts import loss_figures


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 7.3), (0.02, 0.021), (-3.0, 4.0), (0.0, 123456.0)])
def test_ticks_are_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 4)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 7


LINE = Line("loss", "line-0", "", 0.0)


def test_a_line_stays_inside_its_chart() -> None:
    steps = np.arange(5000, dtype=np.float64)
    (line,) = lay_out("loss", [(LINE, Series("loss", steps, 3 + np.sin(steps)))]).lines
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert len(points) == POINTS
    assert all(AXES.left <= x <= AXES.width and 0 <= y <= AXES.height for x, y in points)


@pytest.mark.parametrize("values", [(9.0, 8.0), (0.5, 0.25), (-2.0, 3.0)])
def test_axes_are_whole(values: tuple[float, float]) -> None:
    chart = lay_out("loss", [(LINE, Series("loss", np.array([100.0, 200.0]), np.array(values)))])
    assert "0" in [tick.text for tick in chart.y_ticks] and chart.x_ticks[0].text == "0"


def test_a_flat_line_of_one_step_can_be_drawn() -> None:
    chart = lay_out("loss", [(LINE, Series("loss", np.zeros(1), np.zeros(1)))])
    assert len(chart.lines[0].points.split()) == 1


def test_losses_of_a_kind_of_training_are_one_figure_told_apart_by_name(book: RunBuilder) -> None:
    first = (0, "loss", 4.0), (1, "loss", float("nan")), (2, "loss", 2.0), (2, "loss_box", 3.0), (0, "speed", 50.0)
    book.metrics("pretrain:pseudo:0", *first)
    book.metrics("pretrain:pseudo:1", (0, "loss", 5.0), (0, "loss_class", 1.0))
    book.metrics("pretrain:none:0", (0, "loss", 6.0), (8, "loss_class", 1.5))
    (figure,) = loss_figures(book.run)
    assert figure.total is not None and figure.title == "Pre-training"
    assert sorted(len(line.points.split()) for line in figure.total.lines) == [1, 1, 2], "broken values are left out"
    assert {(variant, seeds) for _, variant, seeds in figure.variants} == {("pseudo", 2), ("none", 1)}
    styles = {name: style for style, name in figure.names}
    assert list(styles) == ["box", "class"] and len(set(styles.values())) == 2
    terms = dict(figure.terms)
    assert {line.label: line.style for line in terms["pseudo"].lines} == {
        "loss_box pseudo (seed 0)": styles["box"], "loss_class pseudo (seed 1)": styles["class"],
    }  # fmt: skip
    assert terms["pseudo"].x_ticks == terms["none"].x_ticks and terms["pseudo"].y_ticks == terms["none"].y_ticks


def test_rare_predicates_share_the_last_bar() -> None:
    bars = predicate_bars([PredicateCount(f"p{i}", 100 - i, 1) for i in range(MAX_BARS + 3)])
    assert len(bars) == MAX_BARS + 1
    assert bars[-1].predicate == "3 others"
    assert bars[-1].kept == sum(100 - i for i in range(MAX_BARS, MAX_BARS + 3))
    assert max(bar.kept_share for bar in bars) == 1.0
