"""Before the first step: what a run needs is there, and the made world is written where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.doctor import require
from pipeline.recipe import Recipe
from scenes.settings import SceneSettings
from storage.errors import Terminal
from storage.open_store import open_store


def prepare(recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> None:
    """Check the recipe's needs, write its scenes, clear what dead writers left. Raises `Terminal` before any work.

    `progress` gets (scenes drawn, all).
    """
    require(recipe)
    if recipe.scenes is not None:
        write_world(recipe.data.root, recipe.scenes, progress)
    open_store(recipe.store).sweep()


def write_world(root: Path, settings: SceneSettings, progress: Callable[[int, int], None] | None) -> None:
    """Write the made world unless it is there. Raises `Terminal` when the folder holds something else or is closed."""
    from scenes.formats import write_scenes

    try:
        write_scenes(root, settings, progress)
    except OSError as error:
        raise Terminal(
            f"the made world can't be written to data.root = {root}: {error}; choose another folder"
        ) from error
