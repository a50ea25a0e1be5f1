"""`rlip recipe`: shows a recipe's resolved settings, checks recipes, compares two, and rehearses a training run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.errors import LONGEST
from pipeline.cli.options import AsJson, Overrides, RecipePath
from pipeline.data.images.training_view import ViewSettings, padded
from pipeline.report.formatting import sanitise
from pipeline.run.dag import build_steps
from pipeline.run.networks import random_starts
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import RecipeValues, load_recipe, read_recipe, recipe_of
from pipeline.runtime.settings import flat
from pipeline.training.settings import AS_THE_AUTHORS
from storage.errors import FatalError
from storage.secrets import redacted

DEFAULT = "default"
OFFICIAL = "official = true"
TRAININGS = ("train_tagger", "pretrain.settings")


class Resolved(NamedTuple):
    """The value of a setting and its origin: a file, `--set`, `official = true` or the default."""

    value: Any
    origin: str


commands = typer.Typer(no_args_is_help=True)


@commands.command("show")
def show_recipe(
    path: RecipePath,
    section: Annotated[
        str | None,
        typer.Option(
            "--section", metavar="NAME", help="Only this section, e.g. pretrain or pretrain.settings.network."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting of a recipe and its origin: a file, --set, official = true or the default."""
    settings = resolve(path, overrides or [])
    notes = {f"{each}.bucket": _padding(settings, each) for each in TRAININGS if f"{each}.bucket" in settings}
    if section is not None:
        known = list(dict.fromkeys(name.partition(".")[0] for name in settings))
        settings = {name: found for name, found in settings.items() if f"{name}.".startswith(f"{section}.")}
        if not settings:
            raise FatalError(f"--section {section}: {path} has no such section; it has {', '.join(known)}")
    if as_json:
        print(json.dumps({name: {"value": found.value, "from": found.origin} for name, found in settings.items()}))
        return
    for heading, below in groupby(settings.items(), key=lambda each: each[0].rpartition(".")[0]):
        print(*([f"\n[{heading}]"] if heading else []), *_lines(dict(below), notes), sep="\n")


@commands.command("check")
def check_recipes(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="Recipe files, or names of built-in recipes.")
    ],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check recipes without their data: names, values, and randomly initialised networks; exit with 1 on errors."""
    results = []
    for path in paths:
        try:
            steps = build_steps(load_recipe(path, overrides or []))
        except FatalError as error:
            results.append({"recipe": str(path), "errors": redacted(str(error)).splitlines(), "notes": []})
            continue
        starts = list(random_starts(steps))
        errors, notes = (
            [f"{start.what}: {start.detail}" for start in starts if start.state == state]
            for state in ("missing", "note")
        )
        results.append({"recipe": str(path), "errors": errors, "notes": notes})
    if as_json:
        print(json.dumps(results))
    else:
        for each in results:
            print(f"{'error' if each['errors'] else 'ok':<7}{each['recipe']}")
            for line in (*each["errors"], *(f"note: {note}" for note in each["notes"])):
                print(f"       {sanitise(line, LONGEST)}")
    if any(each["errors"] for each in results):
        raise typer.Exit(1)


@commands.command("diff")
def compare_recipes(
    before: Annotated[Path, typer.Argument(metavar="RECIPE_A", help="The recipe to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="RECIPE_B", help="The recipe to examine.")],
    as_json: AsJson = False,
) -> None:
    """Show the settings in which two recipes differ, side by side, including defaults."""
    one, other = resolve(before), resolve(after)
    names = sorted(one.keys() | other.keys())
    absent = Resolved(None, "")
    values = {name: (one.get(name, absent).value, other.get(name, absent).value) for name in names}
    differing = {name: pair for name, pair in values.items() if pair[0] != pair[1]}
    if as_json:
        print(json.dumps({name: {"before": old, "after": new} for name, (old, new) in differing.items()}))
        return
    table = Table(box=None)
    table.add_column("setting", no_wrap=True)
    for path in (before, after):
        table.add_column(Text(str(path)), overflow="fold")
    for name, pair in differing.items():
        table.add_row(Text(name), *(Text(_shown(value)) for value in pair))
    Console(markup=False).print(table)


@commands.command("rehearse")
def rehearse(
    recipe: RecipePath,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time limit.")] = 15.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Recipe to write; default: RECIPE_rehearsed.toml in this folder.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe's training for some steps on synthetic images: speed, memory, restart, and the best settings."""
    from pipeline.cli.doctor import show_lines
    from pipeline.run.context import RunContext
    from pipeline.run.device_doctor import examine_device, interrupted
    from pipeline.run.rehearsal import Rehearsal
    from storage.open_store import local_folder

    read = read_recipe(recipe, overrides or [])
    context = RunContext(recipe_of(read))
    place = local_folder(context.recipe.store)  # checkpoints go to the disk on which those of a run will be
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="rehearsal-", dir=place) as folder:
        made = Rehearsal(context, read, out or Path(f"{read.file.stem}_rehearsed.toml"), Path(folder))
        show_lines(examine_device(made.device, minutes, made.checks, interrupted), as_json, context.recipe.name)


def resolve(path: Path, overrides: Sequence[str] = ()) -> dict[str, Resolved]:
    """Dotted name → value and origin of each setting of a recipe. Raises `FatalError` as `load_recipe` does."""
    values = read_recipe(path, overrides)
    resolved = recipe_of(values)
    settings = flat(resolved.model_dump(mode="json"))
    return {name: Resolved(value, _origin(name, values, resolved)) for name, value in settings}


def _origin(name: str, values: RecipeValues, resolved: Recipe) -> str:
    origin = values.origin(name)
    if origin is not None:
        return origin
    for prefix, settings in zip(TRAININGS, (resolved.train_tagger, resolved.pretrain.settings), strict=True):
        if settings.official and name in {f"{prefix}.{each}" for each in (*AS_THE_AUTHORS, "network.official_compat")}:
            return OFFICIAL
    return DEFAULT


def _padding(settings: Mapping[str, Resolved], section: str) -> str:
    """The cost of a training section's `bucket`."""
    values = {name.removeprefix(f"{section}."): found.value for name, found in settings.items()}
    view = ViewSettings(**{name: values[name] for name in ViewSettings.model_fields})
    images = min(values["micro_batch"], values["batch"])
    as_set, in_order = (padded(view, images, is_sorted)[2] for is_sorted in (values["bucket"] > 1, True))
    better = f", with bucket = 16 {in_order:.1%}" if values["bucket"] == 1 else ""
    return f"; a micro-batch of {images} is {as_set:.1%} padding{better}"


def _lines(settings: Mapping[str, Resolved], notes: Mapping[str, str]) -> list[str]:
    """One line per setting, as in a recipe, with its origin and any note in a comment."""
    lines = {name: f"{name.rpartition('.')[2]} = {_shown(found.value)}" for name, found in settings.items()}
    width = min(60, max(map(len, lines.values())))
    return [f"{line:<{width}}  # {settings[name].origin}{notes.get(name, '')}" for name, line in lines.items()]


def _shown(value: Any) -> str:
    return "unset" if value is None else sanitise(json.dumps(value, ensure_ascii=False), 500)
