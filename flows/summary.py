"""Publishes the result of a run as Prefect artifacts: the table of steps, and a page of figures and paths."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.progress import artifact_key
from pipeline.report.figures import DatasetAudit, Figures, figures_of
from pipeline.report.steps import Outcome
from pipeline.report.variants import VariantScores
from pipeline.run.context import RunContext
from pipeline.run.recipe import Recipe
from pipeline.runtime.wording import markdown_table
from storage.runs import Run


def publish_summary(context: RunContext, outcome: Outcome) -> None:
    """Publish the artifacts `stages-<run>` and `summary-<run>`."""
    recipe, run = context.recipe, context.run
    create_table_artifact(
        table=[{name: str(value) for name, value in row.items()} for row in outcome.as_rows()],
        key=artifact_key("stages", recipe.name),
        description=f"Rows and time of each step of {recipe.name}.",
    )
    create_markdown_artifact(
        markdown=summary_page(recipe, run, figures_of(context.view)),
        key=artifact_key("summary", recipe.name),
        description=f"Results of {recipe.name}, and where to find them.",
    )


def summary_page(recipe: Recipe, run: Run, figures: Figures) -> str:
    """The figures and paths of a run in Markdown. Contains no text from the data, because Prefect renders it."""
    counts = [[name, f"{count:,}"] for name, count in figures.labels.levels()]
    audits = [row for audit in figures.audits for row in _audit(audit)]
    lines = [
        f"# {recipe.name}",
        "",
        f"* artifacts by step: `{run.folder}`",
        f"* report: `{(recipe.report / 'index.html').absolute()}`",
        "",
        "## Labels",
        "",
        *(markdown_table(["", f"kept: {figures.choice}"], counts) if counts else ()),
        "",
        *(markdown_table(["labels", "precision", "recall"], audits) if audits else ()),
        *_variants(figures.variants, figures.share_of_gain),
    ]
    return "\n".join(lines) + "\n"


def _audit(audit: DatasetAudit) -> list[list[str]]:
    """Rows for the tagger and for naive matching on one dataset; none if the dataset has no true relations."""
    if audit.labels is None:
        return []
    ways = (("tagger", audit.labels.tagger), ("naive matching", audit.labels.naive))
    return [[f"{audit.dataset}, {way}", _share(scores.precision), _share(scores.recall)] for way, scores in ways]


def _variants(variants: tuple[VariantScores, ...], share: float | None) -> list[str]:
    """The scores of pre-training, one row per variant."""
    names = sorted({name for variant in variants for name in variant.scores})
    rows = [
        [
            f"{variant.variant} ({variant.seeds})",
            *(_share(variant.scores[n].mean if n in variant.scores else None) for n in names),
        ]
        for variant in variants
    ]
    gain = [] if share is None else ["", f"Pseudo-labels yield {share:.2f} of the gain of true relations."]
    return ["", "## Scores", "", *markdown_table(["variant (seeds)", *names], rows), *gain] if names else []


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
