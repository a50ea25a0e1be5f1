"""`rlip run`: runs a recipe and prints its outcome: the stage table, the figures, and the path of the report."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.errors import resumable
from pipeline.cli.options import STORE, AsJson, Direct, Overrides, RecipePath
from pipeline.report.figures import DatasetAudit, Figures
from pipeline.report.formatting import sanitise, share, table
from pipeline.report.label_view import methods_table
from pipeline.report.steps import RunOutcome, outdated_in_words, scored_estimate, stage_rows
from pipeline.report.variants import VariantScores, score_name, score_names, score_text
from pipeline.run.context import RunContext
from pipeline.run.metrics import measured
from pipeline.run.progress import Display, open_display
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import conclude, logged_run
from storage.runs import Run


@resumable()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Run only this stage, e.g. tag, and those it needs.")
    ] = None,
    direct: Direct = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: reuse artifacts in the store, compute the rest, and write the report."""
    settings = [*(overrides or []), *([] if until is None else [f"run.until={until}"])]
    run_context(RunContext(load_recipe(recipe, settings)), direct, as_json)


def run_context(context: RunContext, direct: bool, as_json: bool) -> None:
    """Run a recipe with Prefect, or without it if `direct`, and print the outcome."""
    console = Console(stderr=as_json, markup=False)
    done = execute_run(context, "direct" if direct else "prefect", console, as_json)
    if as_json:
        print(json.dumps(outcome_json(done.outcome, done.figures, done.report) | {"log": str(done.log)}))
    else:
        print_estimate_score(console, context.run)
        print_outcome(console, context.run, done.outcome, done.figures, done.report)
        console.print(Text(f"Log: {done.log}"), soft_wrap=True)


class Executed(NamedTuple):
    """What an execution of a recipe leaves for people in addition to its artifacts."""

    outcome: RunOutcome
    figures: Figures
    report: Path
    log: Path


def execute_run(context: RunContext, runner: str, console: Console, as_json: bool = False) -> Executed:
    """Run a recipe, by the name of a runner, and write its report. The progress goes to `console`, or out as JSON."""
    with (
        logged_run(context, runner) as log_file,
        open_display(console, as_json) as shown,
        measured(context.recipe, shown) as display,
    ):
        outcome = _runner(runner)(context, display)
        display.busy("computing figures and writing the report")
        return Executed(outcome, *conclude(context, outcome), log_file)


def _runner(name: str) -> Callable[[RunContext, Display], RunOutcome]:
    """The function that runs recipes, found by entry point so that the pipeline does not depend on its runners."""
    (entry,) = entry_points(group="rlip.runners", name=name)
    runner: Callable[[RunContext, Display], RunOutcome] = entry.load()
    return runner


def print_outcome(console: Console, run: Run, outcome: RunOutcome, figures: Figures, report: Path) -> None:
    """Prints the tables of a finished run, its labels and shards and where they are, and the path of the report."""
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
            f"Pseudo-labels recover {figures.share_of_gain:.0%} of the gain in zero-shot mAP of ground-truth relations "
            "over no relations."
        )
    if figures.copies:
        console.print(Text(f"{figures.copies:,} images have the same bytes as another; each is labelled separately"))
    for line in _made(run, figures):
        console.print(Text(line), soft_wrap=True)
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
            f"Labels: {labels.kept:,} of {(labels.scored or 0) + (labels.added or 0):,} are kept; {some:,} of "
            f"{labels.images:,} images have some, {labels.images - some:,} have none. `{_command(run, 'export')}` "
            f"writes them, `{_command(run, 'query')}` selects some"
        )
    for step in (step for step in figures.steps if step.step.startswith("shard:")):
        artifacts = list(run.artifacts(step.step).values())
        tars = sum(name.endswith(".tar") for artifact in artifacts for name in artifact.manifest.files)
        place = f"{run.store.address}/artifacts/shard"
        place += (
            f"/{artifacts[0].key}" if len(artifacts) == 1 else f", a folder for each of {len(artifacts)} partitions"
        )
        yield f"Shards ({step.step}): {tars:,} tar{'s' if tars != 1 else ''} with {step.rows_out:,} images in {place}"
    if labels.scored:
        yield f"Judge its labels: {_command(run, 'review')}"


def _command(run: Run, name: str) -> str:
    """The command line of this name on a run, for the current folder and installation."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "rlip" and shutil.which("rlip") is None else "rlip"
    store = [] if run.store.address == str(Path(STORE).absolute()) else ["--store", run.store.address]
    return shlex.join([program, name, run.name, *store])


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
                f"Captions of {name}: {share(found.precision)} of the {found.judged:,} stated triplets whose nouns "
                f"name its categories agree with ground-truth relations, {share(found.recall)} of {found.given:,} "
                "ground-truth relations are stated"
            )
        )
    return printed


def _variants(variants: tuple[VariantScores, ...]) -> Table:
    names = score_names(variants)
    title = "Pre-training: scores in percent, mean ± standard deviation over seeds"
    scores = table(title, "labels", "seeds", *(score_name(name) for name in names))
    for variant in variants:
        scores.add_row(
            Text(variant.variant), str(variant.seeds), *(score_text(variant.scores.get(name), name) for name in names)
        )
    return scores
