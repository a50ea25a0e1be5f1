"""`rlip doctor`: shows what a recipe needs and which of it is missing."""

from __future__ import annotations

import json

from rich.console import Console
from rich.text import Text

from pipeline.cli.options import AsJson, Overrides, RecipePath
from pipeline.report.formatting import sanitise
from pipeline.run.context import RunContext
from pipeline.run.doctor import examine
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError


def doctor(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check that data, weights, store, disk, versions and machine suit a recipe, and say how to fix what is missing."""
    findings = list(examine(RunContext(load_recipe(recipe, overrides or []))))
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        console = Console()
        for finding in findings:  # one line each, so that paths can be copied whole
            line = f"{finding.state:<7}  {finding.what}: {finding.detail}"
            console.print(Text(sanitise(line, len(line))), soft_wrap=True)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        raise FatalError(f"{recipe}: {len(missing)} requirement(s) missing; the list above says how to fix each")
