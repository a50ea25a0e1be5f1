"""Tells in Prefect where the report of a run lies, as a small artifact of each flow run."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact

from flows.progress import artifact_key
from pipeline.report.figures import Figures, headline
from pipeline.report.steps import StepOutcome
from pipeline.run.recipe import Recipe


def publish_report_link(recipe: Recipe, figures: Sequence[str]) -> None:
    """Publish the artifact `report-<run>`: key figures, one a line, and the path of the report.

    A path and no link, because browsers open no local file from a page of Prefect's server.
    """
    create_markdown_artifact(
        markdown=report_link(recipe, figures),
        key=artifact_key("report", recipe.name),
        description=f"Where the report of {recipe.name} lies, with key figures.",
    )


def report_link(recipe: Recipe, figures: Sequence[str]) -> str:
    """The artifact's Markdown. Contains no text from the data, because Prefect renders it."""
    path = (recipe.report / "index.html").absolute()
    told = [f"* {figure}" for figure in figures]
    command = f"`rlip report {recipe.name} --store {recipe.store}` writes it anew"
    return "\n".join([*told, f"* report on {platform.node()}, once the run has ended: `{path}`", f"* {command}"]) + "\n"


def headline_figures(figures: Figures) -> list[str]:
    """The headline of the report, one figure a line."""
    return [f"**{value}** {what}{f' ({against})' if against else ''}" for value, what, against in headline(figures)]


def step_figures(outcomes: Sequence[StepOutcome]) -> list[str]:
    """Rows and partitions of each step of a stage."""
    return [
        f"**{each.rows_out:,}** rows out of {each.step}, {each.cached or 0} of {each.partitions} partitions cached"
        for each in outcomes
    ]
