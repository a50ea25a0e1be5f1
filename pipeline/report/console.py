"""Prints a finished run on the terminal: the stage table, the figures, and the path of the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.figures import DatasetAudit, Figures
from pipeline.report.formatting import sanitise, share, table
from pipeline.report.label_view import methods_table
from pipeline.report.steps import RunOutcome, outdated_in_words, scored_estimate, stage_rows
from pipeline.report.variants import VariantScores, score_name, score_names, score_text
from storage.runs import Run


def print_outcome(
    console: Console, run: Run, outcome: RunOutcome, figures: Figures, report: Path | None, review: str | None = None
) -> None:
    """Prints the tables of a finished run, its labels and shards and where they are, and, last, the path of the report.

    `review`: the command that opens it for review.
    """
    console.print(_stages(figures, outcome))
    if note := outdated_in_words(figures.steps):
        console.print(Text(note, "bold"))
    if figures.unknown_captions:
        console.print(
            f"{figures.unknown_captions:,} recorded captions ignored: without an image id, or of images that no "
            "labelled dataset contains"
        )
    for audit in figures.audits:
        console.print(*_labels(audit, figures.choice), sep="\n")
    if figures.variants:
        console.print(_variants(figures.variants))
    if figures.share_of_gain is not None:
        console.print(
            f"Pseudo-labels recover {figures.share_of_gain:.0%} of the gain of ground-truth relations over no "
            "relations."
        )
    if figures.copies:
        console.print(Text(f"{figures.copies:,} images have the same bytes as another; each is labelled separately"))
    for line in _made(run, figures):
        console.print(Text(line), soft_wrap=True)
    if review is not None and figures.labels.scored:
        console.print(Text(f"Judge its labels: {review}"), soft_wrap=True)
    if report is not None:
        console.print(Text(f"Report: {report}"), soft_wrap=True)


def print_estimate_score(console: Console, run: Run) -> None:
    """Prints the estimate of a run next to what its steps took; nothing without an estimate."""
    scored = scored_estimate(run)
    if not scored:
        return
    estimates = table("Estimate, seconds per image", "step", "images", "estimated", "actual", "actual by estimated")
    for row in scored:
        actual, ratio = ("–" if value is None else f"{value:.4g}" for value in (row.actual, row.ratio))
        estimates.add_row(Text(row.step), f"{row.images:,}", f"{row.estimated:.4g}", actual, ratio)
    console.print(estimates)


def outcome_json(outcome: RunOutcome, figures: Figures, report: Path | None) -> dict[str, Any]:
    """The outcome as plain values that serialise as JSON."""
    return {
        "run": outcome.run,
        "computed": outcome.computed,
        "stages": [asdict(row) for row in stage_rows(figures.steps, outcome)],
        "figures": figures.as_json(),
        "report": str(report) if report is not None else None,
    }


def _made(run: Run, figures: Figures) -> Iterator[str]:
    """What the run made and where it is: labels, images without any, and shards."""
    labels = figures.labels
    covered = [audit.coverage for audit in figures.audits if audit.coverage is not None]
    if labels.kept is not None and labels.images is not None:
        shares = ((each.images, each.kept.share_without) for each in covered)
        some = sum(images - round(images * without) for images, without in shares if without is not None)
        yield (
            f"Labels: {labels.kept:,} of {labels.scored or 0:,} are kept; {some:,} of {labels.images:,} images have "
            f"some, {labels.images - some:,} have none. `rlip export {run.name}` writes them, `rlip query {run.name}` "
            "selects some"
        )
    for step in (step for step in figures.steps if step.step.startswith("shard:")):
        artifacts = list(run.artifacts(step.step).values())
        tars = sum(name.endswith(".tar") for artifact in artifacts for name in artifact.manifest.files)
        place = f"{run.store.address}/artifacts/shard"
        place += (
            f"/{artifacts[0].key}" if len(artifacts) == 1 else f", a folder for each of {len(artifacts)} partitions"
        )
        yield f"Shards ({step.step}): {tars:,} tar{'s' if tars != 1 else ''} with {step.rows_out:,} images in {place}"


def _stages(figures: Figures, outcome: RunOutcome) -> Table:
    stages = table("Stages", "stage", "partitions", "cached", "rows in", "rows out", "rejected", "seconds", "images/s")
    rows = stage_rows(figures.steps, outcome)
    for row in rows:
        counts = (row.partitions, row.cached, row.rows_in, row.rows_out, row.rejected)
        times = (f"{row.seconds:,.1f}", f"{row.rate:,.1f}" if row.rate else "–")
        mark = "*" if row.recorded else ""
        cells = ("–" if count is None else f"{count:,}" for count in counts)
        stages.add_row(Text(row.step), *cells, times[0] + mark, times[1])
    if any(row.recorded for row in rows):
        stages.caption = (
            "* worker seconds, recorded when the step was computed: summed over its workers, as `rlip show` does"
        )
        stages.caption_justify = "left"
    return stages


def _labels(audit: DatasetAudit, choice: str) -> list[Any]:
    name = sanitise(audit.dataset)
    if not audit.has_truth:
        return [Text(f"Labels of {name}: not audited, because the dataset has no relations to compare with")]
    printed: list[Any] = []
    if audit.labels is not None:
        title = f"Labels of {name}, compared with its ground-truth relations: {audit.labels.in_words}"
        printed.append(methods_table(title, audit.labels, choice))
    if audit.captions is not None:
        found = audit.captions
        printed.append(
            Text(
                f"Captions of {name}: {share(found.precision)} of {found.judged:,} stated triplets agree with "
                f"ground-truth relations, {share(found.recall)} of {found.given:,} ground-truth relations are stated"
            )
        )
    return printed


def _variants(variants: tuple[VariantScores, ...]) -> Table:
    names = score_names(variants)
    scores = table("Pre-training", "labels", "seeds", *(score_name(name) for name in names))
    for variant in variants:
        scores.add_row(
            Text(variant.variant), str(variant.seeds), *(score_text(variant.scores.get(name), name) for name in names)
        )
    return scores
