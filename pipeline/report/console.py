"""Prints a finished run on the terminal: the stage table, the figures, and the path of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.labels.label_audit import LabelScores
from pipeline.report.arms import ArmScores, score_name, score_names, score_text
from pipeline.report.figures import DatasetAudit, Figures
from pipeline.report.formatting import sanitise
from pipeline.report.step_costs import scored_estimate
from pipeline.report.steps import Outcome, stage_rows
from storage.runs import Run


def print_outcome(
    console: Console, outcome: Outcome, figures: Figures, report: Path | None, review: str | None = None
) -> None:
    """Prints the tables of a finished run, the command that opens it for review, and, last, the path of the report."""
    console.print(_stages(figures, outcome))
    if figures.unknown_captions:
        console.print(
            f"{figures.unknown_captions:,} recorded captions ignored: no labelled data set contains their images"
        )
    for audit in figures.audits:
        console.print(*_labels(audit, figures.choice), sep="\n")
    if figures.arms:
        console.print(_arms(figures.arms))
    if figures.share_of_gain is not None:
        console.print(
            f"Pseudo-labels recover {figures.share_of_gain:.0%} of the gain of given relations over no relations."
        )
    if review is not None and figures.labels.scored:
        console.print(Text(f"Judge its labels: {review}"), soft_wrap=True)
    if report is not None:
        console.print(Text(f"Report: {report}"), soft_wrap=True)


def print_estimate_score(console: Console, run: Run) -> None:
    """Prints the estimate that was made for a run beside what its steps took; nothing where none was made."""
    scored = scored_estimate(run)
    if not scored:
        return
    made = table("Estimate, seconds per image", "step", "images", "estimated", "actual", "actual by estimated")
    for row in scored:
        actual, ratio = ("–" if value is None else f"{value:.4g}" for value in (row.actual, row.ratio))
        made.add_row(Text(row.step), f"{row.images:,}", f"{row.estimated:.4g}", actual, ratio)
    console.print(made)


def outcome_json(outcome: Outcome, figures: Figures, report: Path | None) -> dict[str, Any]:
    """The outcome as plain values that serialise as JSON."""
    return {
        "run": outcome.run,
        "computed": outcome.computed,
        "stages": [row.as_json() for row in stage_rows(figures.steps, outcome)],
        "figures": figures.as_json(),
        "report": str(report) if report is not None else None,
    }


def share(value: float | None) -> str:
    """Formats a share in [0, 1] with three digits."""
    return "–" if value is None else f"{value:.3f}"


def table(title: str | None, *columns: str) -> Table:
    """Creates an empty table. The first column holds names, the others hold numbers. Headings wrap, but are never cut.

    A title wraps at the width of the table. One with a path, which people copy, is printed before a table without any.
    """
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        longest = max(map(len, column.split(" ")))
        made.add_column(
            column, justify="right" if place else "left", header_style="dim", no_wrap=not place, min_width=longest
        )
    return made


def _stages(figures: Figures, outcome: Outcome) -> Table:
    made = table("Stages", "stage", "partitions", "cached", "rows in", "rows out", "rejected", "seconds", "images/s")
    for row in stage_rows(figures.steps, outcome):
        counts = (row.partitions, row.cached, row.rows_in, row.rows_out, row.rejected)
        times = (f"{row.seconds:,.1f}", f"{row.rate:,.1f}" if row.rate else "–")
        mark = "*" if row.recorded else ""
        made.add_row(
            Text(row.step),
            *("–" if count is None else f"{count:,}" for count in counts),
            times[0] + mark,
            times[1],
        )
    if any(row.recorded for row in stage_rows(figures.steps, outcome)):
        made.caption = "* recorded when the step was computed, summed over its workers"
        made.caption_justify = "left"
    return made


def _labels(audit: DatasetAudit, choice: str) -> list[Any]:
    name = sanitise(audit.dataset)
    if not audit.has_truth:
        return [Text(f"Labels of {name}: not audited, because the data set gives no relations to compare with")]
    printed: list[Any] = []
    if audit.labels is not None:
        made = table(
            f"Labels of {name}, compared with its {audit.labels.given:,} given relations",
            "labels", "kept", "precision", "recall", "precision at recall .8", "average precision",
        )  # fmt: skip
        made.add_row(f"tagger, {choice}", *_scores(audit.labels.tagger))
        made.add_row("naive matching", *_scores(audit.labels.naive))
        made.add_row("boxes and names alone", *_scores(audit.labels.prior))
        printed.append(made)
    if audit.captions is not None:
        found = audit.captions
        printed.append(
            Text(
                f"Captions of {name}: {share(found.precision)} of {found.judged:,} stated triplets agree with given "
                f"relations, {share(found.recall)} of {found.given:,} given relations are stated"
            )
        )
    return printed


def _scores(scores: LabelScores) -> tuple[str, ...]:
    values = (scores.precision, scores.recall, scores.precision_at_recall, scores.average_precision)
    return (f"{scores.kept:,}", *map(share, values))


def _arms(arms: tuple[ArmScores, ...]) -> Table:
    names = score_names(arms)
    made = table("Pre-training", "labels", "seeds", *(score_name(name) for name in names))
    for arm in arms:
        made.add_row(Text(arm.arm), str(arm.seeds), *(score_text(arm.scores.get(name)) for name in names))
    return made
