"""The commands `rlip recipe ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import AsJson, Overrides, RecipePath
from pipeline.cli.errors import errors_reported

commands = typer.Typer(
    no_args_is_help=True, help="Recipe files: show what one comes to, check them without their data, compare two."
)
RecipePaths = Annotated[
    list[Path], typer.Argument(metavar="RECIPE...", help="Recipe files, or names of the project's own.")
]
SECTION = "Only this section, e.g. pretrain or pretrain.settings.network."


@commands.command("show")
def show_recipe(
    recipe: RecipePath,
    section: Annotated[str | None, typer.Option("--section", metavar="NAME", help=SECTION)] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting of a recipe and where its value comes from: a file, --set, official = true or the default."""
    from pipeline.cli.recipe import show_recipe

    with errors_reported():
        show_recipe(recipe, overrides or [], section, as_json)


@commands.command("check")
def check_recipes(recipes: RecipePaths, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check recipes without their data: names, values, and networks that start at random; exit with 1 if one is wrong."""
    from pipeline.cli.recipe import check_recipes

    with errors_reported():
        check_recipes(recipes, overrides or [], as_json)


@commands.command("diff")
def compare_recipes(
    before: Annotated[Path, typer.Argument(metavar="RECIPE_A", help="The recipe to compare with.")],
    after: Annotated[Path, typer.Argument(metavar="RECIPE_B", help="The recipe to examine.")],
    as_json: AsJson = False,
) -> None:
    """Show the settings in which two recipes differ, side by side; defaults count."""
    from pipeline.cli.recipe import compare_recipes

    with errors_reported():
        compare_recipes(before, after, as_json)
