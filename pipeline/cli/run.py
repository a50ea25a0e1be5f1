"""`rlip run`: runs a recipe and prints its outcome."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.errors import resumable
from pipeline.cli.options import AsJson, Direct, Overrides, RecipePath
from pipeline.report.console import outcome_json, print_estimate_score, print_outcome
from pipeline.report.figures import Figures
from pipeline.report.steps import RunOutcome
from pipeline.run.context import RunContext
from pipeline.run.metrics import measured
from pipeline.run.progress import Display, open_display
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import conclude, logged_run


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
    console = Console(stderr=as_json)
    done = execute_run(context, "direct" if direct else "prefect", console, as_json)
    if as_json:
        print(json.dumps(outcome_json(done.outcome, done.figures, done.report) | {"log": str(done.log)}))
    else:
        print_estimate_score(console, context.run)
        print_outcome(console, context.run, done.outcome, done.figures, done.report, review_command(context.recipe))
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


def review_command(recipe: Recipe) -> str:
    """The command that opens a recipe's run for review, for the folder and installation of this command."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "rlip" and shutil.which("rlip") is None else "rlip"
    store = [] if recipe.store == Recipe.model_fields["store"].default else ["--store", recipe.store]
    return shlex.join([program, "review", recipe.name, *store])


def _runner(name: str) -> Callable[[RunContext, Display], RunOutcome]:
    """The function that runs recipes, found by entry point so that the pipeline does not depend on its runners."""
    (entry,) = entry_points(group="rlip.runners", name=name)
    runner: Callable[[RunContext, Display], RunOutcome] = entry.load()
    return runner
