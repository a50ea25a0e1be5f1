"""Before the first step: everything that a run needs is there, and the made world is written where a recipe asks for it."""

from __future__ import annotations

from pipeline.doctor import require
from pipeline.recipe import Recipe
from storage.store import Store


def prepare(recipe: Recipe) -> None:
    """Check the recipe's needs, write its scenes, clear what dead writers left. Raises `Terminal` before any work."""
    require(recipe)
    if recipe.scenes is not None:
        from scenes.formats import write_scenes

        write_scenes(recipe.data.root, recipe.scenes, None)
    Store(recipe.store).sweep()
