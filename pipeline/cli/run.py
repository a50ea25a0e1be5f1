"""What the `rlip` commands do once they are parsed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipeline.cli.show import show_run as _show_run
from pipeline.report.console import outcome_json, print_outcome
from pipeline.report.formatting import harmless
from pipeline.report.trained_tagger import TrainedTagger
from pipeline.run.conclude import conclude
from pipeline.run.doctor import examine, require
from pipeline.run.forecast import why_due
from pipeline.run.planner import Chain
from pipeline.run.prepare import read_annotations, write_world
from pipeline.run.progress import open_display
from pipeline.run.recipe import Recipe, load_recipe
from storage.errors import Terminal
from storage.open_store import Address, existing_store, open_store
from storage.runs import Run


def run_recipe(path: Path, overrides: Sequence[str], runner: str, as_json: bool, until: str | None = None) -> Recipe:
    """Run a recipe by the named runner, all of it or `until` a stage, and show what came out."""
    recipe = load_recipe(path, overrides if until is None else [*overrides, f"run.until={until}"])
    console = Console(stderr=as_json)
    with open_display(console, as_json) as display:
        outcome = _runner(runner)(recipe, display)
    figures, report = conclude(recipe, Run(open_store(recipe.store), recipe.name), outcome)
    if as_json:
        print(json.dumps(outcome_json(outcome, figures, report)))
    else:
        print_outcome(console, outcome, figures, report)
    return recipe


def train_tagger(path: Path, overrides: Sequence[str], runner: str, as_json: bool) -> None:
    """Run a recipe until its tagger is trained; say how good it is and where its weights are."""
    recipe = run_recipe(path, overrides, runner, as_json, until="train_tagger")
    (tagger,) = Run(open_store(recipe.store), recipe.name).artifacts("train_tagger").values()
    trained = TrainedTagger.of(tagger)
    if as_json:
        print(json.dumps(trained.as_json()))
    else:
        trained.print(Console())


def plan_recipe(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Print each step's cached and due partitions, down to where the chain must be run to know more."""
    recipe = load_recipe(path, overrides)
    require(recipe)
    with open_display(Console(stderr=True), as_json=False) as display:
        read_annotations(recipe, display.reading)
    rows = [
        {"step": step.step, "cached": step.cached, "due": step.due, "why": step.why} for step in why_due(Chain(recipe))
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("step", "cached", "due", "why", box=None)
    for row in rows:
        table.add_row(*("?" if value is None else str(value) for value in row.values()))
    Console().print(table)


def show_run(store: Address, run_name: str | None, step: str | None, as_json: bool) -> None:
    """Print runs, a run, or a step of it."""
    _show_run(Console(), existing_store(store), run_name, step, as_json)


def make_scenes(folder: Path, path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Write the made world that a recipe describes."""
    from rich.progress import Progress

    recipe = load_recipe(path, overrides)
    if recipe.scenes is None:
        raise Terminal(f"{path} has no [scenes] section; name one that has, e.g. --recipe recipes/demo.toml")
    with Progress(console=Console(stderr=True), disable=as_json) as progress:
        bar = progress.add_task("scenes")
        write_world(folder, recipe.scenes, lambda done, total: progress.update(bar, completed=done, total=total))
    print(json.dumps({"folder": str(folder)}) if as_json else folder)


def examine_recipe(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Print what the doctor finds; exit code 1 when something is missing."""
    findings = list(examine(load_recipe(path, overrides)))
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        table = Table("", "what", Column("", overflow="fold"), box=None)  # folded: no path is cut short
        for finding in findings:
            table.add_row(finding.state, *(Text(harmless(said, len(said))) for said in (finding.what, finding.detail)))
        Console().print(table)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        raise Terminal(f"{len(missing)} thing(s) missing for {path}, see above")


def _runner(name: str):  # type: ignore[no-untyped-def]
    """The function that carries recipes out, found by name so that the pipeline need not know who drives it."""
    (entry,) = entry_points(group="rlip.runners", name=name)
    return entry.load()
