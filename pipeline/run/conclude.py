"""After the last step: the run is told what it was, and its report is written."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pipeline.report.figures import Figures, figures_of
from pipeline.report.static_report import write_report
from pipeline.report.steps import Outcome
from pipeline.run.recipe import Recipe
from storage.runs import Run


def conclude(recipe: Recipe, run: Run, outcome: Outcome) -> tuple[Figures, Path]:
    """Keep recipe and outcome with the run and write the report; its figures and its path."""
    run.note("recipe", recipe.model_dump(mode="json"))
    run.note("outcome", outcome.as_rows())
    figures = figures_of(recipe, run)
    return figures, write_report(recipe, run, outcome, recipe.reports / recipe.name, written=datetime.now())
