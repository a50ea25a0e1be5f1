"""Where boxes, arrows and texts of a drawing lie; charts of losses, labels and the training runs of several runs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from run_builder import RunBuilder

from pipeline.cli.report import report
from pipeline.report.charts import AXES, POINTS, Series, lay_out, nice_ticks
from pipeline.report.drawing import Rect, beside
from pipeline.report.static_report import training_curves, write_report
from pipeline.report.steps import RunOutcome
from pipeline.run.context import run_view
from storage.errors import FatalError
from storage.runs import Run


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 7.3), (0.02, 0.021), (-3.0, 4.0), (0.0, 123456.0)])
def test_ticks_are_few_and_cover_the_range(low, high):
    ticks = nice_ticks(low, high, 4)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 7


def test_a_line_stays_inside_its_chart_and_one_step_can_be_drawn():
    steps = np.arange(5000, dtype=np.float64)
    (line,) = lay_out("loss", [("loss", "line-0", Series("loss", steps, 3 + np.sin(steps)))]).points
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert len(points) == POINTS
    assert all(AXES.left <= x <= AXES.width and 0 <= y <= AXES.height for x, y in points)
    chart = lay_out("loss", [("loss", "line-0", Series("loss", np.zeros(1), np.zeros(1)))])
    assert len(chart.points[0].points.split()) == 1
    for values in ((9.0, 8.0), (0.5, 0.25), (-2.0, 3.0)):  # both axes have a 0
        chart = lay_out("loss", [("loss", "line-0", Series("loss", np.array([100.0, 200.0]), np.array(values)))])
        assert "0" in [tick.text for tick in chart.y_ticks] and chart.x_ticks[0].text == "0"


def test_values_that_are_no_numbers_are_left_out_of_a_line(book):
    book.metrics("pretrain:pseudo:0", (0, "loss", 4.0), (1, "loss", float("nan")), (2, "loss", 2.0))
    (curves,) = training_curves([book.run])
    (line,) = curves.main[0].points
    assert (line.label, len(line.points.split())) == ("toy, pseudo (seed 0)", 2)


def test_scores_during_training_are_not_called_as_those_of_all_test_images(book):
    book.metrics("pretrain:pseudo:0", (2, "zero_shot_map", 0.5))
    (curves,) = training_curves([book.run])
    assert [chart.title for chart in curves.others] == ["zero-shot mAP on the first test images"]


@pytest.mark.parametrize(
    "box", [Rect(-20, -5, 500, 300), Rect(90, 40, -80, -30), Rect(200, 200, 9, 9), Rect(math.inf, 0, -math.inf, 9)]
)
def test_boxes_of_damaged_labels_are_drawn_inside_their_image(box):
    left, top, right, bottom = box.within(100, 50).corners
    assert 0 <= left <= right <= 99 and 0 <= top <= bottom <= 49
    # Text that is larger than its image starts at the edge.
    assert Rect(80, -3, 30, 10).moved_into(100, 50) == Rect(70, 0, 30, 10)
    assert Rect(80, 0, 300, 10).moved_into(100, 50).x == 0


def test_arrows_in_both_directions_do_not_cover_each_other():
    assert beside((0, 0), (10, 0), 3) == (0, 3, 10, 3)
    assert beside((10, 0), (0, 0), 3) == (10, -3, 0, -3)


def trained(book: RunBuilder, step: str, last: float, *, steps: int = 100, rate: float = 1.5e-4) -> None:
    """Records a training run whose loss falls from 10 to `last`."""
    rows = []
    for number in range(10, steps + 1, 10):
        done = number / steps
        rows += [
            (number, "loss", 10 - (10 - last) * done), (number, "loss_box", 5 - 4 * done),
            (number, "lr", rate * (1 - done)),
        ]  # fmt: skip
    values = [dict(zip(("step", "name", "value"), row, strict=True)) for row in rows]
    book.add(step, "all", values, settings={"run": book.run.name, "step": step})


@pytest.fixture
def other(book: RunBuilder) -> RunBuilder:
    """A second run of the same store; both are trained."""
    made = RunBuilder(Run(book.run.store, "other"), book.pictures)
    trained(book, "pretrain:pseudo:0", 2.0)
    trained(book, "pretrain:pseudo:1", 2.5)
    trained(book, "pretrain:none:0", 4.0)
    trained(made, "pretrain:pseudo:0", 1.0, steps=200)
    trained(made, "train_tagger", 3.0)
    return made


def test_each_metric_has_one_chart_with_a_line_per_training(book, other):
    tagger, pretraining = training_curves([book.run, other.run])
    assert (tagger.title, pretraining.title) == ("Tagger", "Pre-training")
    assert [chart.title for chart in pretraining.main] == ["loss", "learning rate"]
    assert [chart.title for chart in pretraining.others] == ["loss box"]
    assert pretraining.legend == (
        ("line-0", "toy, none", 1), ("line-1", "toy, pseudo", 2), ("line-2", "other, pseudo", 1),
    )  # fmt: skip
    assert tagger.legend == (("line-0", "other", 1),)
    loss = pretraining.main[0]
    assert [(line.label, line.style, line.last) for line in loss.points] == [
        ("toy, none (seed 0)", "line-0", 4.0), ("toy, pseudo (seed 0)", "line-1", 2.0),
        ("toy, pseudo (seed 1)", "line-1", 2.5), ("other, pseudo (seed 0)", "line-2", 1.0),
    ]  # fmt: skip
    ends = [float(line.points.split()[-1].split(",")[0]) for line in loss.points]
    middle = AXES.x(0.5)
    assert ends == [middle, middle, middle, AXES.x(1)], "half as many steps, half as long a line"


def test_a_report_draws_other_runs_if_asked_to_and_a_run_does_not_keep_them(book, other, recipe, tmp_path):
    view = run_view(recipe, book.run)
    alone = write_report(view, RunOutcome("toy"), tmp_path / "alone").read_text()
    assert 'id="comparison"' not in alone and "other, pseudo" not in alone
    page = write_report(view, None, tmp_path / "compared", against=[other.run]).read_text()
    section = page.partition('<section id="comparison">')[2].partition("</section>")[0]
    assert 'href="#comparison"' in page
    assert re.findall(r"<figcaption>([^<]*?)(?: <span|</figcaption>)", section.partition("Pre-training")[2])[:3] == [
        "loss", "learning rate", "loss box",
    ]  # fmt: skip
    assert section.count("<title>other, pseudo (seed 0)</title>") == 3
    for style in ("line-0", "line-1", "line-2"):
        assert f'<polyline class="{style}" points="' in section
        assert f"polyline.{style} {{ stroke: var(--{style}); }}" in page
    assert page.count("data-") == 0 and "<script" not in page
    assert write_report(view, RunOutcome("toy"), tmp_path / "compared").read_text() == alone


def test_runs_are_named_on_the_command(book, other, tmp_path, capsys):
    root = book.run.store.root
    report("toy", tmp_path / "report", 0, store=root, as_json=True, against=["other", "toy", "other"])
    page = Path(json.loads(capsys.readouterr().out)["report"]).read_text()
    assert page.count(">loss</figcaption>") == 1 and "other, pseudo" in page
    RunBuilder(Run(book.run.store, "untrained"), book.pictures).add("ingest", "toys/0000", [])
    with pytest.raises(FatalError, match="no training to compare in untrained; `rlip show RUN`"):
        report("toy", tmp_path / "report", 0, store=root, as_json=True, against=["other", "untrained"])
    with pytest.raises(FatalError, match="no run 'nobody'"):
        report("toy", tmp_path / "report", 0, store=root, as_json=True, against=["nobody"])
