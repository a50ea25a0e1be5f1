"""Runs: executing recipes, labelling folders, and reading their results from a store."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from html import escape
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from rich.console import Console

from pipeline.cli.explain import ImageTrace, trace_of
from pipeline.cli.label import label_recipe, require_usable
from pipeline.cli.options import STORE
from pipeline.cli.query import select, table_of
from pipeline.cli.report import recorded_view
from pipeline.cli.run import execute_run
from pipeline.cli.show import show_runs, show_steps
from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.interop.export_run import export_run
from pipeline.interop.run_tables import tables_by_name
from pipeline.interop.shard_samples import SeenLabels
from pipeline.labels.label_rows import LABELS, flat_labels
from pipeline.report.formatting import sanitise
from pipeline.report.report_folder import report_folder
from pipeline.report.static_report import write_report
from pipeline.report.steps import summaries
from pipeline.run.context import RunContext
from pipeline.run.recipe import Recipe
from pipeline.run.recipe_files import load_recipe
from pipeline.runtime.settings import toml_value
from pipeline.training.sample import SampleBox, SampleRelation
from rlip.arguments import Score, checked
from rlip.notebook import Drawable, console_html
from storage.errors import FatalError, PipelineError
from storage.open_store import existing_store
from storage.runs import Run as RecordedRun, find_run, runs_of

Error = PipelineError
"""What is raised for unusable input; the message says what is wrong, where, and what to do."""
_TURN = RLock()
"""Runs in threads of one process take turns, since each hides `__main__` and sets the level of the one log."""


@checked
def run(
    recipe: str | Path, settings: Mapping[str, Any] | None = None, runner: Literal["direct", "prefect"] = "direct"
) -> Run:
    """Runs a recipe as `rlip run` does: it reuses artifacts in the store, and committed artifacts survive any crash.

    `recipe`: a file, or the name of a built-in recipe, e.g. "demo". `settings`: values that replace those of the
    recipe, e.g. {"shard.threshold": 0.3}. `runner`: "direct", in this process and its workers, or "prefect"
    (not in a notebook). Runs in threads of one process take turns.
    """
    if unset := [name for name, value in (settings or {}).items() if value is None]:
        raise FatalError(f"settings: {', '.join(unset)} = None: TOML has no such value; omit the setting")
    overrides = [f"{name}={toml_value(value)}" for name, value in (settings or {}).items()]
    context = _executed(load_recipe(Path(recipe), overrides), runner)
    return Run(context.run.records()[-1])


def label(folder: str | Path, *, tagger: str | Path, detector: str | Path, **options: Any) -> Run:
    """Labels a folder of unannotated images. Unusable images are named in warnings.

    `tagger`: weights, their folder, or a run. `detector`: a transformers folder or hub name, torchvision's .pth, an
    .onnx file, weights of this project, or a .json with boxes. `options`: as in `rlip label`, e.g. captioner,
    categories, threshold and store; `--as` is run_name, and `--set` is overrides, a list.
    """
    if isinstance(listed := options.get("categories"), list | tuple):
        options["categories"] = ",".join(listed)
    given: dict[str, Any] = {"folder": folder, "tagger": tagger, "detector": detector, **options}
    context = _executed(checked(label_recipe)(**given))
    for image, reason in require_usable(context).items():
        warnings.warn(f"{image} is excluded: {reason}", stacklevel=2)
    return Run(context.run.records()[-1])


@checked
def open(store: str | Path = STORE) -> Store:
    """Opens a store: a folder, or a URL such as s3://bucket/folder, whose later runs show when it is opened again."""
    return Store(store)


class Store:
    """A store and its runs."""

    def __init__(self, address: str | Path = STORE) -> None:
        """Raises `Error` if there is none at this address."""
        self._store = existing_store(address)

    def runs(self) -> list[str]:
        """The names of the runs."""
        return [run.name for run in runs_of(self._store)]

    def run(self, name: str) -> Run:
        """A run by its name; NAME@2 is its state after the second execution."""
        return Run(find_run(self._store, name))

    def __repr__(self) -> str:
        return f"Store({self._store.address!r}, runs={self.runs()})"

    def _repr_html_(self) -> str:
        return console_html(lambda console: show_runs(console, self._store, as_json=False))


class Run:
    """A run in a store, by its `name`. The runs that `run` and `label` return keep the state of that execution, e.g.
    demo@2."""

    def __init__(self, record: RecordedRun) -> None:
        self._run = record
        self.name = record.name

    def images(self) -> pa.Table:
        """One row for each image, with its annotated boxes or, if it has none, the detected ones."""
        return self._table("images")

    def captions(self) -> pa.Table:
        """One row for each image, with its captions."""
        return self._table("captions")

    def triplets(self) -> pa.Table:
        """One row for each image, with the triplets that its captions state."""
        return self._table("triplets")

    def labels(self, all_scores: bool = False) -> pa.Table:
        """One row for each label that the run keeps; with `all_scores`, for every scored label, with columns `kept` and
        `reason`. docs/exchange.md describes the columns."""
        self._require("labels", bool(self._run.artifacts("tag")))
        found = pa.concat_tables([LABELS.empty_table(), *flat_labels(self._run)])
        return found if all_scores else found.filter(pc.field("kept"))

    def sql(self, query: str) -> pa.Table:
        """The result of an SQL query on the run's tables, as in `rlip query`. Needs `pip install 'rlip[review]'`."""
        schema, batches = select(self._run, query)
        return pa.Table.from_batches(batches, schema)

    def explain(self, image: int | str) -> Explanation:
        """Traces the labels of an image, for printing; `draw(out)` draws the kept labels, and `trace` has the rows.
        `image`: its id, dataset and id ("coco/42"), or file name."""
        return Explanation(self._run, trace_of(self._run, str(image)))

    @checked
    def report(
        self, folder: str | Path | None = None, pictures: int = 24, seed: int = 0, verdicts: str | Path | None = None
    ) -> Path:
        """Writes the report again, in place or into `folder`, and returns its page. `pictures`: images drawn at random.
        `verdicts`: folder of verdicts; by default, that in the store."""
        view, place = recorded_view(self._run), report_folder(self._run) if folder is None else Path(folder)
        judged = None if verdicts is None else Path(verdicts)
        return write_report(view, None, place, pictures, seed=seed, written=datetime.now(), verdicts=judged)

    @checked
    def export(
        self,
        folder: str | Path,
        format: str = "parquet",
        threshold: Score = 0,
        all_scores: bool = False,
        masks: str | Path | None = None,
    ) -> Path:
        """Writes the labels in a format of `rlip export` to a new folder, and returns the folder. `threshold`: minimum
        score, from 0 to 1. `masks`: folder of the PNGs of PSG and COCO panoptic."""
        return Path(export_run(self._run, format, Path(folder), threshold, all_scores, masks).folder)

    def _table(self, name: str) -> pa.Table:
        tables = tables_by_name(self._run)
        self._require(name, name in tables)
        return table_of(tables[name]).to_table()

    def _require(self, name: str, is_there: bool) -> None:
        if not is_there:
            steps = ", ".join(step for step in sorted(self._run.steps()) if self._run.artifacts(step))
            why = f"; its steps: {steps}" if steps else ": it was removed, or the store moved"
            raise FatalError(f"run {self.name!r} in {self._run.store.address} has no {name}{why}")

    def __repr__(self) -> str:
        return f"Run({self.name!r}, steps={self._run.steps()})"

    def _repr_html_(self) -> str:
        return console_html(lambda console: show_steps(console, self._run, summaries(self._run), as_json=False))


class Explanation(Drawable):
    """How the labels of an image came about, as text; a notebook also draws the labels that the run keeps.

    `trace` has the rows that `rlip explain --json` prints.
    """

    def __init__(self, run: RecordedRun, trace: ImageTrace) -> None:
        self.trace = trace
        self.title = sanitise(trace.image["uri"], 60)
        self._run = run

    @cached_property
    def image(self) -> Image.Image:
        """The image. Raises `Error` if its file can't be read."""
        try:
            return read_image(locate_image(recorded_view(self._run).image_folders, self.trace.image))
        except (BadImage, KeyError) as error:
            raise FatalError(f"image {self.title}: can't be read ({error}); its folder may have moved") from error

    def seen(self, top: int) -> SeenLabels:
        """The boxes and the kept labels, with their confidence."""
        row = self.trace.image
        boxes = tuple(SampleBox(b["category"], *(b[side] for side in "xywh")) for b in row["boxes"])
        kept = [label for label in self.trace.labels if label["not_kept"] is None]
        relations = (SampleRelation(k["subject"], k["object"], k["predicate"], k["confidence"]) for k in kept)
        return SeenLabels(boxes, tuple(relations), row["width"])

    def __str__(self) -> str:
        return str(self.trace)

    def _repr_html_(self) -> str:
        with suppress(PipelineError):
            return f"{super()._repr_html_()}<pre>{escape(str(self))}</pre>"
        return f"<pre>{escape(str(self))}</pre>"


def _executed(recipe: Recipe, runner: str = "direct") -> RunContext:
    context = RunContext(recipe)
    with _TURN, _main_hidden():
        execute_run(context, runner, Console(stderr=True, markup=False))
    return context


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keeps workers from importing the calling script, as multiprocessing does by its file: it would run again."""
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)
