"""`rlip estimate`: estimates what a run will cost, from the measurements of an earlier run."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.options import AsJson, Overrides, RecipePath
from pipeline.report.formatting import bytes_in_words, table
from pipeline.report.steps import ESTIMATE
from pipeline.run.context import RunContext
from pipeline.run.doctor import require_readable
from pipeline.run.estimate import Estimate, estimate as estimated, with_trainings
from pipeline.run.planner import Planner
from pipeline.run.prepare import read_annotations
from pipeline.run.progress import open_display
from pipeline.run.recipe import RunSection
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError
from storage.runs import find_run

FARTHEST = 100
"""Ratio of images to process to images measured above which a warning says that the estimate extrapolates."""


def estimate(
    recipe: RecipePath,
    earlier: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN", help="The run that provides costs per image; unset: docs/benchmarks.md."),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Number of images to label, if the data is elsewhere.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Concurrent workers or GPUs; default: run.workers, on Ray run.max_actors."
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Price of a worker-hour, in any currency.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Estimate a run's worker-hours, wall time, bytes, tokens and cost from an earlier run's costs per image.

    Unless --images is set, the run's report compares the estimate with the actual costs.
    """
    context = RunContext(load_recipe(recipe, overrides or []))
    run = None if earlier is None else find_run(context.store, earlier)
    if images is None:
        require_readable(context)
        with open_display(Console(stderr=True, markup=False), as_json=False) as display:
            read_annotations(context, display.reading)
    result = estimated(Planner(context), run, images, workers or _workers(context.recipe.run), price)
    result = with_trainings(result, context, images)
    if images is None:
        context.run.note(ESTIMATE, result.as_json())
    if as_json:
        print(json.dumps(result.as_json()))
        return
    shown = table(f"Estimate of {result.run}", "step", "images", "worker-hours", "wall time", "size", "measured")
    for step in result.steps:
        count = "–" if step.images is None else f"{step.images:,}"
        hours = "–" if step.seconds is None else f"{step.seconds / 3600:,.2f}"
        wall = "–" if step.wall is None else str(timedelta(seconds=round(step.wall)))
        size = "–" if step.bytes is None else bytes_in_words(step.bytes)
        shown.add_row(Text(step.step), count, hours, wall, size, Text(step.basis))
    console = Console(markup=False)
    console.print(shown)
    for line in _lines(result):
        console.print(Text(line), soft_wrap=True)


def _workers(run: RunSection) -> int:
    """Number of concurrent workers in the recipe. Raises `FatalError` if only the cluster knows."""
    most = run.workers if run.engine == "local" else run.max_actors
    if most is None:
        raise FatalError("run.engine = 'ray' without run.max_actors: set the number of workers with --workers")
    return most


def _lines(total: Estimate) -> list[str]:
    """The totals, and what they exclude."""
    images = "" if total.labelled is None else f"{total.labelled:,} images to label, "
    on_gpu = "none was measured on a GPU" if total.gpu_hours is None else f"{total.gpu_hours:,.2f} of them on a GPU"
    lines = [
        f"Total: {images}{timedelta(seconds=round(total.wall))} of wall time, {bytes_in_words(total.bytes)} of disk, "
        f"{total.hours:,.2f} worker-hours ({on_gpu})"
    ]
    if total.cost is not None:
        lines.append(f"{total.cost:,.2f} at {total.price_per_hour:g} an hour")
    if total.cost_per_1000_images is not None:
        lines.append(f"{total.cost_per_1000_images:,.2f} per 1,000 images to label")
    if total.cost_per_1000_relations is not None:
        lines.append(
            f"{total.cost_per_1000_relations:,.2f} per 1,000 kept relations, {total.kept_per_image:.2f} an image"
        )
    if total.tokens is not None:
        price = "set prompt_price and completion_price in the options to price them"
        if total.tokens_price is not None:
            price = f"{total.tokens_price:,.2f} by prompt_price and completion_price"
        lines.append(f"Endpoint: {total.tokens[0]:,} tokens of prompts and {total.tokens[1]:,} of responses; {price}")
    if far := [step for step in total.steps if step.factor > FARTHEST]:
        worst = max(far, key=lambda step: step.factor)
        lines.append(
            f"Warning: {', '.join(step.step for step in far)}: more than {FARTHEST} times the measured images, up to "
            f"{worst.factor:,.0f} times ({worst.step}); start-up and loading are counted per image, so measure a run "
            "with more images and estimate from it"
        )
    left_out = [step.step for step in total.steps if step.seconds is None]
    if left_out:
        lines.append(f"Not included (never measured, or of unknown size): {', '.join(left_out)}")
    if unsized := [step.step for step in total.steps if step.bytes is None and step.seconds is not None]:
        lines.append(f"Not included in the disk space: {', '.join(unsized)}")
    return [*lines, "Requests to an object store and idle time are not measured, so they are not included"]
