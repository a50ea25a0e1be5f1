"""`rlip plan`: shows what a run of a recipe would do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.formatting import sanitise
from pipeline.run.context import RunContext
from pipeline.run.doctor import require_readable
from pipeline.run.planner import Planner, forecast
from pipeline.run.prepare import read_annotations
from pipeline.run.progress import open_display
from pipeline.run.recipe_files import load_recipe
from storage.errors import FatalError


def plan_recipe(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Print the cached and due partitions of each step, as far as they are known before the chain runs."""
    context = RunContext(load_recipe(path, overrides))
    require_readable(context)
    if context.recipe.scenes is not None and any(source.missing_files() for source in context.sources):
        raise FatalError(
            f"{path}: its synthetic world is not written yet, so all of it is due; `rlip run {path}` writes it"
        )
    with open_display(Console(stderr=True), as_json=False) as display:
        read_annotations(context, display.reading)
    rows = [asdict(step) for step in forecast(Planner(context))]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("step", "cached", "due", "why", "checks", box=None)
    for row in rows:
        due = "not known" if row["due"] is None else f"{'at most ' if row['at_most'] else ''}{row['due']}"
        table.add_row(
            row["step"], str(row["cached"]), due, Text(sanitise(row["why"], 200)), Text(", ".join(row["checks"]))
        )
    Console().print(table)
