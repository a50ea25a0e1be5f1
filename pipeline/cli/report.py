"""`rlip report`: writes the report of a run anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipeline.captioning.settings import CaptionSettings
from pipeline.labels.kept_labels import choice_or_all
from pipeline.report.report_folder import report_folder
from pipeline.report.static_report import write_report
from pipeline.report.training_charts import has_training
from pipeline.report.view import RunView
from pipeline.run.context import run_view
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import STARTED, recorded_recipe
from storage.errors import FatalError
from storage.open_store import Address, existing_store
from storage.runs import Run, RunRecord, find_run


def write_run_report(
    root: Address,
    run_name: str,
    out: Path | None,
    pictures: int,
    as_json: bool,
    against: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write the report of a run to `out`, or where the run's report lies. Prints the path of its page.

    `pictures` images are drawn at random with `seed`, and half as many of the hardest come beside them. `against`: names
    of runs whose training runs are compared with its own. Raises `FatalError` for one that has none.
    """
    store = existing_store(root)
    run = find_run(store, run_name)
    others = [find_run(store, name) for name in dict.fromkeys(against) if name != run_name]
    without = [one.name for one in (run, *others) if against and not has_training(one)]
    if without:
        raise FatalError(f"no training to compare in {', '.join(without)}; `rlip show RUN` lists the steps of a run")
    folder = out or report_folder(run)
    page = write_report(recorded_view(run), None, folder, pictures, seed=seed, written=datetime.now(), against=others)
    print(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


def recorded_view(run: Run) -> RunView:
    """A run with the recipe recorded with it. Without one, as for imported labels, nothing says where images lie."""
    recipe = last_recipe(run)
    if recipe is not None:
        return run_view(recipe, run)
    return RunView(
        run=run,
        label_sets=tuple(sorted({partition.split("/")[0] for partition in run.artifacts("tag")})),
        choice=choice_or_all(run),
        captioning=CaptionSettings(),
        image_folders={},
        recipe={},
    )


def last_recipe(run: Run) -> Recipe | None:
    """The recipe of a run or, before it has completed once, of its last execution; None where no recipe made it."""
    recipe = recorded_recipe(run)
    if recipe is not None or isinstance(run, RunRecord):
        return recipe
    records = run.records()
    return recorded_recipe(records[-1]) if records else recorded_recipe(run, STARTED)
