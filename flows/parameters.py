"""The parameters of deployments, as Prefect's server describes and checks them.

`python -m flows.parameters RECIPE [NAME=VALUE ...]` prints a recipe as these parameters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import explain, load_recipe, use_present_names
from pipeline.stages.order import STAGES
from storage.errors import FatalError, PipelineError


def described(text: str, **schema: Any) -> Any:
    """An annotation that describes a parameter in Prefect's form, which drops the description of a plain `Field`."""
    return Field(json_schema_extra={"description": text, **schema})


def _checked(values: Any, validate: ValidatorFunctionWrapHandler) -> Recipe:
    """Reports errors in a recipe as commands do. Prefect itself would print the whole recipe, twice."""
    if isinstance(values, dict):
        use_present_names(values, "parameter recipe")
    try:
        recipe: Recipe = validate(values)
        return recipe
    except ValidationError as error:
        raise FatalError(explain(error, lambda setting: "parameter recipe")) from None


RecipeParameter = Annotated[
    Recipe,
    WrapValidator(_checked),
    described("The recipe with all its settings, as `python -m flows.parameters RECIPE` prints it."),
]
FIRST = STAGES[0].name
"""Where a run starts by default: at its first stage, so that it computes whatever is due."""
StartStage = Annotated[
    str,
    described(
        "Run from this stage on. The results of earlier stages must be in the store; they are never recomputed.",
        enum=[stage.name for stage in STAGES],
    ),
]


def parameters(path: Path, overrides: Sequence[str] = ()) -> str:
    """The JSON that `prefect deployment run --params` takes. Raises `FatalError` for an invalid recipe."""
    return json.dumps({"recipe": load_recipe(path, overrides).model_dump(mode="json")})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        print(parameters(Path(sys.argv[1]), sys.argv[2:]))
    except PipelineError as error:
        sys.exit(f"Error: {error}")
