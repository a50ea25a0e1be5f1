"""The training runs of `benchmarks/miniature.py`: what each is told apart by, its place in the store, and how one is run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.claims.curve import CurveSettings, CurveStage
from models.config import NetworkConfig
from models.initial import load_initial
from models.rlip import RLIP
from models.weights import save
from pipeline.run.recipe import Recipe
from pipeline.runtime.execute import WorkItem, execute
from pipeline.runtime.processes import one_thread_each
from pipeline.runtime.stage import WHOLE, dataset_of
from storage.digests import digest_path
from storage.keys import KeyTerms
from storage.open_store import local_folder, open_store
from storage.runs import Run
from storage.store import Store

REPORT_EVERY = 30.0
"""Seconds between two lines of progress of a training run."""


@dataclass(frozen=True)
class Variant:
    """A way to pre-train. Each claim compares the default with others that differ in one value."""

    fusion: str = "alif"
    labels: str = "pseudo"
    share: float = 1.0
    """Share of the labelled images, whole partitions, in the order of their names."""


@dataclass(frozen=True)
class Training:
    """One training of the benchmark."""

    variant: Variant
    seed: int

    @property
    def step(self) -> str:
        """The step of the run that names its artifact."""
        variant = self.variant
        return f"curve:{variant.fusion}:{variant.labels}:{variant.share:g}:{self.seed}"

    def settings(self, recipe: Recipe, initial: Path, milestones: int) -> CurveSettings:
        """The recipe's settings of pre-training, for this training and one process of one thread."""
        values = recipe.pretrain.settings.model_dump() | {"initial": initial, "processes": 1, "milestones": milestones}
        network = values["network"] | {"fusion": self.variant.fusion}
        return CurveSettings.model_validate(values | {"network": network, "seed": self.seed})

    def item(self, run: Run, settings: CurveSettings) -> WorkItem:
        """The work, with everything that decides its outcome. The run must have shards and test images."""
        shards = sorted(run.artifacts(f"shard:{self.variant.labels}").items())
        images = [each for part, each in sorted(run.artifacts("ingest").items()) if dataset_of(part) == "test"]
        taken = [artifact for _, artifact in shards[: round(len(shards) * self.variant.share)]]
        read = {"shards": taken, "images": images}
        terms = KeyTerms(
            CurveStage.name,
            CurveStage.version,
            settings.row_settings(),
            {table: [artifact.content for artifact in found] for table, found in read.items()},
            {role: digest_path(path) for role, path in settings.files().items()},
        )
        inputs = {table: tuple(artifact.folder for artifact in found) for table, found in read.items()}
        return WorkItem(self.step, WHOLE, terms, inputs)


def write_initial(recipe: Recipe, path: Path) -> None:
    """Writes the weights that all variants start from: those of the recipe's detector that a network without fusion has.

    The detector was trained with ALIF. Its fusion layers would be an advantage of that variant.
    """
    settings = recipe.pretrain.settings
    network = RLIP(NetworkConfig.from_dict(settings.network | {"fusion": "none"}), settings.tokenizer)
    load_initial(network, settings.pretrained, settings.tokenizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(network, path)


def train(recipe: Recipe, training: Training, initial: Path, milestones: int) -> str:
    """Runs a training unless the store has it, goes on from its last checkpoint if there is one, and records it in the run."""
    store = open_store(recipe.store)
    settings = training.settings(recipe, initial, milestones)
    item = training.item(Run(store, recipe.name), settings)
    stage = CurveStage(settings, _folders(recipe))
    with one_thread_each():
        record = execute(stage, item, store, _Lines(training.step))
    Run(store, recipe.name).record(training.step, CurveStage.name, {WHOLE: record.key})
    return training.step


def found(store: Store, recipe: Recipe, trainings: Sequence[Training], initial: Path, milestones: int) -> dict:
    """Training → the artifact that the store has of it."""
    run = Run(store, recipe.name)
    keys = {each: each.item(run, each.settings(recipe, initial, milestones)).key for each in trainings}
    there = store.find_all(CurveStage.name, list(keys.values()))
    return {each: there[key] for each, key in keys.items() if key in there}


def initial_file(recipe: Recipe) -> Path:
    """Where `write_initial` puts its weights."""
    return local_folder(recipe.store) / "miniature" / "initial.safetensors"


def _folders(recipe: Recipe) -> Mapping[str, Path | str]:
    return recipe.resolved().data.image_folders()


class _Lines:
    """Prints the progress of a training run, at intervals."""

    def __init__(self, step: str) -> None:
        self._step, self._printed = step, time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if time.monotonic() - self._printed > REPORT_EVERY:
            self._printed = time.monotonic()
            print(f"{self._step}: {done}/{total} {note}", flush=True)
