"""Commands that read a recipe and carry it out, plan it or examine it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.commands.options import AsJson, Direct, Overrides, RecipePath
from pipeline.cli.errors import errors_reported


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Run only this stage, e.g. tag, and what it needs.")
    ] = None,
    direct: Direct = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: reuse the artifacts that the store has, compute the rest, and write the report."""
    from pipeline.cli.run import run_recipe

    with errors_reported(resumes=True):
        run_recipe(recipe, overrides or [], "direct" if direct else "prefect", as_json, until)


def train_tagger(
    recipe: RecipePath, overrides: Overrides = None, direct: Direct = False, as_json: AsJson = False
) -> None:
    """Train the Relation Tagger of a recipe, running only the steps it needs; print its scores and the path of its weights."""
    from pipeline.cli.run import train_tagger

    with errors_reported(resumes=True):
        train_tagger(recipe, overrides or [], "direct" if direct else "prefect", as_json)


def plan(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do: per step, how many partitions are cached, how many are due, and why."""
    from pipeline.cli.plan import plan_recipe

    with errors_reported():
        plan_recipe(recipe, overrides or [], as_json)


def estimate(
    recipe: RecipePath,
    earlier: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN", help="The run whose costs per image count; unset: docs/benchmarks.md."),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Number of images to label, for data that are not at hand.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Workers or GPUs that work at once; default: run.workers, on Ray run.max_actors."
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Price of a worker-hour, in any currency.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what a run will take: worker-hours, wall time, bytes and cost, from what an earlier run took per image."""
    from pipeline.cli.estimate import print_estimate

    with errors_reported():
        print_estimate(recipe, overrides or [], earlier, images, workers, price, as_json)


def scenes(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    recipe: Annotated[Path, typer.Option(help="The recipe with the `scenes` section.")] = Path("demo"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the synthetic world with its true relations, in COCO, Objects365, Visual Genome and HICO-DET formats."""
    from pipeline.cli.scenes import make_scenes

    with errors_reported():
        make_scenes(folder, recipe, overrides or [], as_json)


def doctor(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check that data, weights, store, disk, versions and machine suit a recipe, and say how to fix what is missing."""
    from pipeline.cli.doctor import examine_recipe

    with errors_reported():
        examine_recipe(recipe, overrides or [], as_json)
