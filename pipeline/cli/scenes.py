"""`rlip scenes`: writes the synthetic world of a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from pipeline.run.prepare import write_world
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError


def make_scenes(folder: Path, path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Write the synthetic world that a recipe describes."""
    recipe = load_recipe(path, overrides)
    if recipe.scenes is None:
        raise FatalError(f"{path} has no [scenes] section; use a recipe with one, e.g. --recipe demo")
    with Progress(console=Console(stderr=True), disable=as_json) as progress:
        bar = progress.add_task("scenes")
        write_world(folder, recipe.scenes, lambda done, total: progress.update(bar, completed=done, total=total))
    print(json.dumps({"folder": str(folder)}) if as_json else folder)
