"""Flow `from_file`: the chain by a recipe file, which a schedule reads anew at every run."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

from prefect import State, flow

from flows.chain import run_chain
from flows.parameters import FIRST, StartStage, described
from pipeline.report.steps import Outcome
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError


@flow(name="from_file", flow_run_name="{recipe_file}", persist_result=False)
def from_file(
    recipe_file: Annotated[
        Path, described("A recipe file on the worker's machine, or the name of one of the project's own.")
    ],
    overrides: Annotated[tuple[str, ...], described("Settings to override, e.g. run.workers=4.")] = (),
    start: StartStage = FIRST,
) -> State[Outcome]:
    """Run the chain of a recipe file that lies on the worker's machine.

    Raises `FatalError` when the file is gone or is no valid recipe.
    """
    try:
        recipe = load_recipe(recipe_file, overrides)
    except FatalError as error:
        raise FatalError(
            f"recipe_file = {recipe_file} on {platform.node()}: {error}. Restore the recipe, or change this parameter of the "
            "deployment or schedule"
        ) from error
    return run_chain(recipe, start)
