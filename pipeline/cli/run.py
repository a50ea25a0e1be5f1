"""`rlip run` and `rlip train-tagger`: run a recipe and print its outcome."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pipeline.report.console import TrainedTagger, outcome_json, print_estimate_score, print_outcome
from pipeline.report.steps import Outcome
from pipeline.run.context import RunContext
from pipeline.run.metrics import measured
from pipeline.run.progress import Display, open_display
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.run.runner import conclude, logged_run
from storage.errors import FatalError


def run_recipe(
    path: Path, overrides: Sequence[str], runner: str, as_json: bool, until: str | None = None
) -> RunContext:
    """Run a recipe with the named runner, completely or up to stage `until`, and print the outcome."""
    context = RunContext(load_recipe(path, overrides if until is None else [*overrides, f"run.until={until}"]))
    run_context(context, runner, as_json)
    return context


def run_context(context: RunContext, runner: str, as_json: bool) -> None:
    """Run a recipe with the named runner, and print the outcome."""
    console = Console(stderr=as_json)
    with logged_run(context, runner) as log_file, open_display(console, as_json) as shown:
        with measured(context.recipe, shown) as display:
            outcome = _runner(runner)(context, display)
        shown.busy("computing figures and writing the report")
        figures, report = conclude(context, outcome)
    if as_json:
        print(json.dumps(outcome_json(outcome, figures, report) | {"log": str(log_file)}))
    else:
        print_estimate_score(console, context.run)
        print_outcome(console, context.run, outcome, figures, report, review_command(context.recipe))
        console.print(Text(f"Log: {log_file}"), soft_wrap=True)


def review_command(recipe: Recipe) -> str:
    """The command that opens a recipe's run for review, as typed where this one was."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "rlip" and shutil.which("rlip") is None else "rlip"
    store = [] if recipe.store == Recipe.model_fields["store"].default else ["--store", recipe.store]
    return shlex.join([program, "review", recipe.name, *store])


def train_tagger(path: Path, overrides: Sequence[str], runner: str, as_json: bool) -> None:
    """Run a recipe until its tagger is trained; print its scores and the path of its weights."""
    taken = load_recipe(path, overrides).tag.weights
    if taken is not None:
        raise FatalError(
            f"{path}: takes over the tagger {taken} (tag.weights), so none is trained; leave tag.weights out"
        )
    context = run_recipe(path, overrides, runner, as_json, until="train_tagger")
    (tagger,) = context.run.artifacts("train_tagger").values()
    trained = TrainedTagger.of(tagger)
    if as_json:
        print(json.dumps(trained.as_json()))
    else:
        trained.print(Console())


def _runner(name: str) -> Callable[[RunContext, Display], Outcome]:
    """The function that runs recipes. It is found by entry point, so that the pipeline does not depend on its runners."""
    (entry,) = entry_points(group="rlip.runners", name=name)
    found: Callable[[RunContext, Display], Outcome] = entry.load()
    return found
