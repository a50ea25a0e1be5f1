"""Implements the `rlip` commands that work on a recipe, and `rlip show`."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.show import show_run as _show_run
from pipeline.report.console import outcome_json, print_estimate_score, print_outcome
from pipeline.report.formatting import sanitise
from pipeline.report.steps import Outcome
from pipeline.report.trained_tagger import TrainedTagger
from pipeline.run.context import RunContext
from pipeline.run.doctor import examine, require_readable
from pipeline.run.forecast import forecast
from pipeline.run.measured import measured
from pipeline.run.planner import Planner
from pipeline.run.prepare import read_annotations, write_world
from pipeline.run.progress import Display, open_display
from pipeline.run.recipe import Recipe, load_recipe
from pipeline.run.runner import conclude, logged_run
from storage.errors import FatalError
from storage.open_store import Address, existing_store


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
    with logged_run(context, runner) as log_file:
        with open_display(console, as_json) as shown, measured(context.recipe, shown) as display:
            outcome = _runner(runner)(context, display)
        figures, report = conclude(context, outcome)
    if as_json:
        print(json.dumps(outcome_json(outcome, figures, report) | {"log": str(log_file)}))
    else:
        print_estimate_score(console, context.run)
        print_outcome(console, outcome, figures, report, review_command(context.recipe))
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


def plan_recipe(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Print the cached and due partitions of each step, as far as they are known before the chain runs."""
    context = RunContext(load_recipe(path, overrides))
    require_readable(context)
    if context.recipe.scenes is not None and any(source.missing_files() for source in context.sources):
        raise FatalError(
            f"{path}: its synthetic world is not written yet, so all of it is due; `rlip run {path}` writes it"
        )
    with open_display(Console(stderr=True), as_json=False) as display:
        read_annotations(context, display.reading)
    rows = [asdict(step) for step in forecast(Planner(context))]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("step", "cached", "due", "why", "checks", box=None)
    for row in rows:
        due = "not known" if row["due"] is None else f"{'at most ' if row['at_most'] else ''}{row['due']}"
        table.add_row(
            row["step"], str(row["cached"]), due, Text(sanitise(row["why"], 200)), Text(", ".join(row["checks"]))
        )
    Console().print(table)


def show_run(store: Address, run_name: str | None, step: str | None, as_json: bool) -> None:
    """Print all runs, one run, or one step of it."""
    _show_run(Console(), existing_store(store), run_name, step, as_json)


def make_scenes(folder: Path, path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Write the synthetic world that a recipe describes."""
    from rich.progress import Progress

    recipe = load_recipe(path, overrides)
    if recipe.scenes is None:
        raise FatalError(f"{path} has no [scenes] section; use a recipe with one, e.g. --recipe demo")
    with Progress(console=Console(stderr=True), disable=as_json) as progress:
        bar = progress.add_task("scenes")
        write_world(folder, recipe.scenes, lambda done, total: progress.update(bar, completed=done, total=total))
    print(json.dumps({"folder": str(folder)}) if as_json else folder)


def examine_recipe(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Print what the doctor finds. Raises `FatalError` if something is missing."""
    findings = list(examine(RunContext(load_recipe(path, overrides))))
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        console = Console()
        for finding in findings:  # one line each, so that a path can be copied whole
            line = f"{finding.state:<7}  {finding.what}: {finding.detail}"
            console.print(Text(sanitise(line, len(line))), soft_wrap=True)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        raise FatalError(f"{path}: {len(missing)} requirement(s) missing; the list above says how to fix each")


def _runner(name: str) -> Callable[[RunContext, Display], Outcome]:
    """The function that runs recipes. It is found by entry point, so that the pipeline does not depend on its runners."""
    (entry,) = entry_points(group="rlip.runners", name=name)
    found: Callable[[RunContext, Display], Outcome] = entry.load()
    return found
