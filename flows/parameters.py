"""Prints a recipe as the parameters of a deployment: `python -m flows.parameters RECIPE [NAME=VALUE ...]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.run.recipe import load_recipe
from storage.errors import PipelineError


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
