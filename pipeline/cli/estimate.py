"""`rlip estimate`: tells before a run what it will cost, from what an earlier run took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pipeline.report.formatting import bytes_in_words, table
from pipeline.report.steps import ESTIMATE
from pipeline.run.context import RunContext
from pipeline.run.doctor import require_readable
from pipeline.run.estimate import Estimate, estimate, with_trainings
from pipeline.run.planner import Planner
from pipeline.run.prepare import read_annotations
from pipeline.run.progress import open_display
from pipeline.run.recipe import RunSection
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError
from storage.runs import find_run

FARTHEST = 100
"""Images to process for each one that was measured, above which an estimate is warned of."""


def print_estimate(
    path: Path,
    overrides: Sequence[str],
    earlier: str | None,
    images: int | None,
    workers: int | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Print the estimate of a recipe. Unless the number of images is assumed, it is noted with the run for its report."""
    context = RunContext(load_recipe(path, overrides))
    run = None if earlier is None else find_run(context.store, earlier)
    if images is None:
        require_readable(context)
        with open_display(Console(stderr=True), as_json=False) as display:
            read_annotations(context, display.reading)
    made = estimate(Planner(context), run, images, workers or _workers(context.recipe.run), price)
    made = with_trainings(made, context, images)
    if images is None:
        context.run.note(ESTIMATE, made.as_json())
    if as_json:
        print(json.dumps(made.as_json()))
        return
    console = Console()
    shown = table(f"Estimate of {made.run}", "step", "images", "worker-hours", "wall time", "size", "measured")
    for step in made.steps:
        count = "–" if step.images is None else f"{step.images:,}"
        hours = "–" if step.seconds is None else f"{step.seconds / 3600:,.2f}"
        wall = "–" if step.wall is None else str(timedelta(seconds=round(step.wall)))
        size = "–" if step.bytes is None else bytes_in_words(step.bytes)
        shown.add_row(Text(step.step), count, hours, wall, size, Text(step.basis))
    console.print(shown)
    for line in _lines(made):
        console.print(Text(line), soft_wrap=True)


def _workers(run: RunSection) -> int:
    """Workers that work at once by the recipe. Raises `FatalError` where only the cluster knows."""
    most = run.workers if run.engine == "local" else run.max_actors
    if most is None:
        raise FatalError("run.engine = 'ray' without run.max_actors: name the number of workers with --workers")
    return most


def _lines(made: Estimate) -> list[str]:
    """The totals, and what they leave out."""
    images = "" if made.labelled is None else f"{made.labelled:,} images to label, "
    on_gpu = "none was measured on a GPU" if made.gpu_hours is None else f"{made.gpu_hours:,.2f} of them on a GPU"
    lines = [
        f"Total: {images}{timedelta(seconds=round(made.wall))} of wall time, {bytes_in_words(made.bytes)} of disk, "
        f"{made.hours:,.2f} worker-hours ({on_gpu})"
    ]
    if made.cost is not None:
        lines.append(f"{made.cost:,.2f} at {made.price_per_hour:g} an hour")
    if made.cost_per_1000_images is not None:
        lines.append(f"{made.cost_per_1000_images:,.2f} per 1,000 images")
    if made.cost_per_1000_relations is not None:
        lines.append(
            f"{made.cost_per_1000_relations:,.2f} per 1,000 kept relations, {made.kept_per_image:.2f} an image"
        )
    if far := [step for step in made.steps if step.factor > FARTHEST]:
        worst = max(far, key=lambda step: step.factor)
        lines.append(
            f"Warning: {', '.join(step.step for step in far)}: more than {FARTHEST} times the images that were measured, at most "
            f"{worst.factor:,.0f} times ({worst.step}); start and loading count as if each image took them, so run more images "
            "and estimate from that run"
        )
    left_out = [step.step for step in made.steps if step.seconds is None]
    if left_out:
        lines.append(f"Not included, since never measured or of unknown size: {', '.join(left_out)}")
    return [
        *lines,
        "Requests to an object store and time without work to do are not measured, so they are not included",
    ]
