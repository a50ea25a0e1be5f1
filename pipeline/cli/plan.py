"""`rlip plan`: shows what a run of a recipe would do."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import AsJson, Overrides, RecipePath
from pipeline.report.formatting import sanitise
from pipeline.run.context import RunContext
from pipeline.run.doctor import require_readable
from pipeline.run.planner import Planner, forecast
from pipeline.run.prepare import read_annotations
from pipeline.run.progress import open_display
from pipeline.run.recipe_files import load_recipe


def plan(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what a run would do: per step, how many partitions are cached, how many it would compute, and why."""
    context = RunContext(load_recipe(recipe, overrides or []))
    require_readable(context)
    with open_display(Console(stderr=True, markup=False), as_json=False) as display:
        read_annotations(context, display.reading)
    rows = [asdict(step) for step in forecast(Planner(context))]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("step", "cached", "due", "why", "checks", box=None)
    for row in rows:
        due = f"{'at most ' if row['at_most'] else ''}{row['due']}"
        table.add_row(
            row["step"], str(row["cached"]), due, Text(sanitise(row["why"], 200)), Text(", ".join(row["checks"]))
        )
    Console(markup=False).print(table)
