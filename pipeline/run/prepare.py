"""Before the first step: what a run needs is there, and the made world is written where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.data.datasets.record_index import is_indexed, open_index
from pipeline.run.dag import build_steps
from pipeline.run.doctor import require
from pipeline.run.recipe import Recipe
from scenes.settings import SceneSettings
from storage.errors import Terminal
from storage.open_store import open_store


def prepare(
    recipe: Recipe,
    drawing: Callable[[int, int], None] | None = None,
    reading: Callable[[str, float], None] | None = None,
) -> None:
    """Check the recipe's needs, write its scenes, read annotations that are new, clear what dead writers left.

    Raises `Terminal` before any work. `drawing` gets (scenes drawn, all), `reading` a data set and the share of it read.
    """
    require(recipe)
    if recipe.scenes is not None:
        write_world(recipe.data.root, recipe.scenes, drawing)
    read_annotations(recipe, reading)
    open_store(recipe.store).sweep()


def read_annotations(recipe: Recipe, reading: Callable[[str, float], None] | None) -> None:
    """Parse the annotations that the chain will ask for and that were not parsed before. Raises `AnnotationError`."""
    settings = recipe.ingest_settings()
    for name in build_steps(recipe)[0].datasets:
        source = recipe.data.source(name)
        if not is_indexed(source, settings.indexes):
            open_index(source, settings.indexes, None if reading is None else partial(reading, name))


def write_world(root: Path, settings: SceneSettings, progress: Callable[[int, int], None] | None) -> None:
    """Write the made world unless it is there. Raises `Terminal` when the folder holds something else or is closed."""
    from scenes.formats import write_scenes

    try:
        write_scenes(root, settings, progress)
    except OSError as error:
        raise Terminal(
            f"the made world can't be written to data.root = {root}: {error}; choose another folder"
        ) from error
