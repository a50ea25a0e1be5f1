"""Flow `from_file`: the chain by a recipe file, which a schedule reads anew at every run."""

from __future__ import annotations

import platform
from pathlib import Path

from prefect import State, flow

from flows.chain import StartStage, run_chain
from pipeline.report.steps import Outcome
from pipeline.run.recipe import load_recipe
from storage.errors import FatalError


@flow(name="from_file", flow_run_name="{recipe_file}", persist_result=False)
def from_file(recipe_file: Path, overrides: tuple[str, ...] = (), start: StartStage = None) -> State[Outcome]:
    """Run the chain of a recipe file on the worker's machine, with overrides such as `run.workers=4`.

    Raises `FatalError` when the file is gone or is no valid recipe.
    """
    if not recipe_file.is_file():
        raise FatalError(
            f"recipe_file = {recipe_file}: no such file on {platform.node()}, where relative paths start at {Path.cwd()}; "
            "restore the recipe, or change this parameter of the deployment or schedule"
        )
    return run_chain(load_recipe(recipe_file, overrides), start)
