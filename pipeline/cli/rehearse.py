"""`rlip rehearse`: rehearses a recipe's training on this machine, and writes a recipe with the best settings."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from pipeline.cli.doctor import show_lines
from pipeline.cli.options import AsJson, Overrides, RecipePath


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
    from pipeline.run.context import RunContext
    from pipeline.run.device_doctor import examine_device, interrupted
    from pipeline.run.recipe_files import read_recipe, recipe_of
    from pipeline.run.rehearsal import Rehearsal
    from storage.open_store import local_folder

    read = read_recipe(recipe, overrides or [])
    context = RunContext(recipe_of(read))
    place = local_folder(context.recipe.store)  # checkpoints go to the disk on which those of a run will be
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="rehearsal-", dir=place) as folder:
        made = Rehearsal(context, read, out or Path(f"{read.file.stem}_rehearsed.toml"), Path(folder))
        show_lines(examine_device(made.device, minutes, made.checks, interrupted), as_json, context.recipe.name)
