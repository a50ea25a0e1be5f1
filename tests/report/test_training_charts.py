"""The training runs of several runs in one chart per metric."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_builder import RunBuilder

from pipeline.cli.report import report
from pipeline.report.charts import AXES, COLOURS
from pipeline.report.static_report import write_report
from pipeline.report.steps import Outcome
from pipeline.report.training_charts import training_curves
from pipeline.run.context import run_view
from storage.errors import FatalError
from storage.runs import Run


def trained(book: RunBuilder, step: str, last: float, *, steps: int = 100, rate: float = 1.5e-4) -> None:
    """Records a training run whose loss falls from 10 to `last`."""
    rows = []
    for number in range(10, steps + 1, 10):
        done = number / steps
        rows += [
            (number, "loss", 10 - (10 - last) * done),
            (number, "loss_box", 5 - 4 * done),
            (number, "lr", rate * (1 - done)),
            (number, "images_per_second", 40.0 + last + number % 3),
            (number, "data_wait", 0.1),
            (number, "mfu", 0.35),
        ]
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


def test_each_metric_has_one_chart_with_a_line_per_training(book: RunBuilder, other: RunBuilder) -> None:
    tagger, pretraining = training_curves([book.run, other.run])
    assert (tagger.title, pretraining.title) == ("Tagger", "Pre-training")
    assert [chart.title for chart in pretraining.main] == [
        "loss", "learning rate", "images per second", "share of time waiting for data",
        "model FLOPs utilisation",
    ]  # fmt: skip
    assert [chart.title for chart in pretraining.others] == ["loss box"]
    assert pretraining.legend == (
        ("line-0", "toy, none", 1), ("line-1", "toy, pseudo", 2), ("line-2", "other, pseudo", 1),
    )  # fmt: skip
    assert tagger.legend == (("line-0", "other", 1),)
    loss = pretraining.main[0]
    assert [(line.label, line.style, line.last) for line in loss.lines] == [
        ("toy, none (seed 0)", "line-0", 4.0),
        ("toy, pseudo (seed 0)", "line-1", 2.0),
        ("toy, pseudo (seed 1)", "line-1", 2.5),
        ("other, pseudo (seed 0)", "line-2", 1.0),
    ]
    ends = [float(line.points.split()[-1].split(",")[0]) for line in loss.lines]
    middle = AXES.x(0.5)
    assert ends == [middle, middle, middle, AXES.x(1)], "half as many steps, half as long a line"


def test_small_rates_fit_beside_the_axis(book: RunBuilder, other: RunBuilder) -> None:
    rates = training_curves([book.run, other.run])[1].main[1]
    assert [tick.text for tick in rates.y_ticks] == ["0", "5e-5", "1e-4", "1.5e-4"]


def test_more_lines_than_colours_are_dashed(book: RunBuilder) -> None:
    for number in range(COLOURS + 1):
        trained(book, f"pretrain:variant{number}", 1.0)
    (curves,) = training_curves([book.run])
    assert curves.legend[-1][0] == "line-0 dashed"


def test_the_report_draws_the_other_runs_only_if_it_is_asked_to(
    book: RunBuilder, other: RunBuilder, recipe: Any, tmp_path: Path
) -> None:
    view = run_view(recipe, book.run)
    alone = write_report(view, None, tmp_path / "alone").read_text()
    assert 'id="comparison"' not in alone and "other, pseudo" not in alone
    page = write_report(view, None, tmp_path / "compared", against=[other.run]).read_text()
    section = page.partition('<section id="comparison">')[2].partition("</section>")[0]
    assert 'href="#comparison"' in page
    assert re.findall(r"<figcaption>([^<]*?)(?: <span|</figcaption>)", section.partition("Pre-training")[2])[:3] == [
        "loss", "learning rate", "images per second",
    ]  # fmt: skip
    assert section.count("<title>other, pseudo (seed 0)</title>") == 6
    for style in ("line-0", "line-1", "line-2"):
        assert f'<polyline class="{style}" points="' in section
        assert f"polyline.{style} {{ stroke: var(--{style}); }}" in page
    assert page.count("data-") == 0 and "<script" not in page


def test_a_comparison_is_no_report_that_a_run_keeps(
    book: RunBuilder, other: RunBuilder, recipe: Any, tmp_path: Path
) -> None:
    view, nothing = run_view(recipe, book.run), Outcome("toy")
    folder = tmp_path / "report"
    alone = write_report(view, nothing, folder).read_text()
    assert "Training runs compared" in write_report(view, None, folder, against=[other.run]).read_text()
    assert write_report(view, nothing, folder).read_text() == alone


def test_runs_are_named_on_the_command(
    book: RunBuilder, other: RunBuilder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = book.run.store.root
    report("toy", tmp_path / "report", 0, store=root, as_json=True, against=["other", "toy", "other"])
    page = Path(json.loads(capsys.readouterr().out)["report"]).read_text()
    assert page.count(">loss</figcaption>") == 1 and "other, pseudo" in page
    RunBuilder(Run(book.run.store, "untrained"), book.pictures).add("ingest", "toys/0000", [])
    with pytest.raises(FatalError, match="no training to compare in untrained; `rlip show RUN`"):
        report("toy", tmp_path / "report", 0, store=root, as_json=True, against=["other", "untrained"])
    with pytest.raises(FatalError, match="no run 'nobody'"):
        report("toy", tmp_path / "report", 0, store=root, as_json=True, against=["nobody"])
