"""The context of a run: its recipe, steps, store and record, each made once for everything that needs them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path

from pipeline.data.datasets.source import DataSource
from pipeline.labels.kept_labels import choice_of
from pipeline.report.steps import StepOutcome
from pipeline.report.view import RunView
from pipeline.run.dag import build_steps
from pipeline.run.recipe import Recipe
from pipeline.runtime.logs import RunLogs
from storage.digests import digest_path
from storage.open_store import open_store
from storage.runs import Run
from storage.store import Store


class RunContext:
    """A recipe that is ready to run. The store is opened on first use, so that `rlip doctor` can report why it can't
    be.

    Raises `FatalError` when `run.until` names a stage that the recipe does not have, or `shard.verdicts` no folder.
    """

    def __init__(self, recipe: Recipe, stages: Collection[str] | None = None) -> None:
        self.recipe = recipe
        self.resolved = recipe.resolved()
        """The recipe with the paths that this run uses; `recipe` is recorded."""
        self.steps = [replace(step, settings=step.settings.planned()) for step in build_steps(recipe)]
        self.computed = [step for step in self.steps if stages is None or step.stage.name in stages]
        """The steps that this process computes: those of `stages`, or all."""
        self.outcomes: list[StepOutcome] = []
        """The steps that this execution has finished so far."""
        self.recorded: dict[str, Mapping[str, str]] = {}
        """Step → partition → key, as this execution recorded them."""
        self.expected: Mapping[str, float | None] | None = None
        """Step → seconds that it is expected to take (`estimate.expected_seconds`), once that was asked for."""
        self.is_prepared = False
        """Whether the checks before a run have passed; until then, an execution changes nothing that a run has."""
        self.digest: Callable[[Path], str] = cache(digest_path)
        """Digest of the content of a file or folder that steps read, which is read once in a run."""
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        self.logs = RunLogs(
            recipe.report.with_name(f"{recipe.name}.logs") / started, recipe.name, recipe.run.log_format
        )

    @cached_property
    def store(self) -> Store:
        """The recipe's store, its view of runs up to date. Raises `PipelineError` when it can't be opened."""
        store = open_store(self.recipe.store)
        store.refresh()
        return store

    @cached_property
    def run(self) -> Run:
        """The record of this run in the store."""
        return Run(self.store, self.recipe.name)

    @property
    def sources(self) -> list[DataSource]:
        """The datasets that the steps need, with absolute paths."""
        known = {source.name: source for source in self.resolved.data.sources}
        return [known[name] for name in self.steps[0].datasets]

    @property
    def view(self) -> RunView:
        """What reports show of this run."""
        return run_view(self.recipe, self.run)


def run_view(recipe: Recipe, run: Run) -> RunView:
    """What reports show of a recipe's run."""
    resolved = recipe.resolved()
    return RunView(
        run=run,
        label_sets=recipe.data.label,
        choice=choice_of(run) or recipe.shard,
        captioning=resolved.caption,
        image_folders=resolved.data.image_folders(),
        recipe=recipe.model_dump(mode="json"),
    )
