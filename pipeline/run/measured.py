"""Adds metrics to the display of a run where its recipe asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.run.progress import Display
from pipeline.run.recipe import Recipe


@contextmanager
def measured(recipe: Recipe, display: Display) -> Iterator[Display]:
    """The display, which also keeps Prometheus metrics where the recipe asks for them. Raises as `serve_metrics` does."""
    if recipe.run.metrics_file is None and recipe.run.metrics_port is None:
        yield display
        return
    from pipeline.run.metrics import serve_metrics

    with serve_metrics(recipe, display) as counting:
        yield counting
