"""`rlip report`: writes the report of a run again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.captioning.settings import CaptionSettings
from pipeline.cli.options import STORE, AsJson, RunName, StorePath, VerdictsFolder
from pipeline.labels.kept_labels import choice_or_all
from pipeline.report.galleries import absence
from pipeline.report.report_folder import report_folder
from pipeline.report.static_report import has_training, write_report
from pipeline.report.view import RunView
from pipeline.run.context import run_view
from pipeline.run.recipe_files import recorded_recipe
from pipeline.runtime.stage import dataset_of
from storage.errors import FatalError
from storage.open_store import existing_store
from storage.runs import STARTED, Run, find_run


def report(
    run_name: RunName,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a copy, which `rlip store rm` keeps; unset: replace the run's report."),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Number of images drawn at random; half as many of the hardest are added.")
    ] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed for drawing the images.")] = 0,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="RUN", help="Add this run's training runs to the training charts. Can be repeated."
        ),
    ] = None,
    store: StorePath = STORE,
    verdicts: VerdictsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run again, including that of an earlier record (RUN@2) or of a pulled or imported run."""
    opened = existing_store(store)
    run = find_run(opened, run_name)
    others = [find_run(opened, name) for name in dict.fromkeys(against or []) if name != run_name]
    without = [one.name for one in (run, *others) if against and not has_training(one)]
    if without:
        raise FatalError(f"no training to compare in {', '.join(without)}; `rlip show RUN` lists the steps of a run")
    folder = out or report_folder(run)
    page = write_report(
        recorded_view(run), None, folder, pictures,
        seed=seed, written=datetime.now(), against=others, verdicts=verdicts,
    )  # fmt: skip
    print(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


def recorded_view(run: Run) -> RunView:
    """A run with its recorded recipe. Without one, as for imported labels, the images' location is unknown.

    A relative folder of the data starts here or, for images that are not there, where the last execution began.
    """
    recipe = recorded_recipe(run)
    if recipe is not None:
        begun = Run(run.store, run.name.partition("@")[0]).read_document(STARTED)
        data = recipe.data.model_copy(update={"root": Path(begun.get("data", {}).get("root", recipe.data.root))})
        view, begun_view = (run_view(each, run) for each in (recipe, recipe.model_copy(update={"data": data})))
        here, there = view.image_folders, begun_view.image_folders
        folders = {
            name: there[name] if here[name] != there[name] and absence(here, name) else here[name] for name in here
        }
        return replace(view, image_folders=folders)
    return RunView(
        run=run,
        label_sets=tuple(sorted({*map(dataset_of, run.artifacts("tag"))})),
        choice=choice_or_all(run),
        captioning=CaptionSettings(),
        image_folders={},
        recipe={},
    )
