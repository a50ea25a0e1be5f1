from __future__ import annotations

import numpy as np
import pytest
from run_builder import RunBuilder

from pipeline.labels.label_tally import PredicateCount
from pipeline.report.charts import (
    HEIGHT,
    LEFT,
    MAX_BARS,
    POINTS,
    WIDTH,
    Series,
    line_chart,
    loss_charts,
    nice_ticks,
    predicate_bars,
)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 7.3), (0.02, 0.021), (-3.0, 4.0), (0.0, 123456.0)])
def test_ticks_are_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 4)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 7


def test_a_line_stays_inside_its_chart() -> None:
    steps = np.arange(5000, dtype=np.float64)
    chart = line_chart("loss", {"pretrain:none:1": Series("loss", steps, 3 + np.sin(steps))})
    (line,) = chart.lines
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert len(points) == POINTS
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert (line.arm, line.label) == ("none", "none (seed 1)")


def test_a_flat_line_of_one_step_can_be_drawn() -> None:
    chart = line_chart("loss", {"train_tagger": Series("loss", np.zeros(1), np.zeros(1))})
    assert len(chart.lines[0].points.split()) == 1


def test_only_losses_are_drawn_and_broken_values_left_out(book: RunBuilder) -> None:
    book.metrics("pretrain:pseudo:0", (0, "loss", 4.0), (1, "loss", float("nan")), (2, "loss", 2.0), (0, "speed", 50.0))
    book.metrics("pretrain:pseudo:1", (0, "loss", 5.0))
    (group,) = loss_charts(book.run)
    assert (group.title, [chart.title for chart in group.charts]) == ("Pre-training", ["loss"])
    assert [len(line.points.split()) for line in group.charts[0].lines] == [2, 1]
    assert group.legend == [("pseudo", 2)]


def test_rare_predicates_share_the_last_bar() -> None:
    bars = predicate_bars([PredicateCount(f"p{i}", 100 - i, 1) for i in range(MAX_BARS + 3)])
    assert len(bars) == MAX_BARS + 1
    assert bars[-1].predicate == "3 others"
    assert bars[-1].kept == sum(100 - i for i in range(MAX_BARS, MAX_BARS + 3))
    assert max(bar.kept_share for bar in bars) == 1.0
