"""Finds the training that a run has recorded: its settings and its training set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.stages.pretrain import PretrainStage
from pipeline.stages.train_tagger import TrainTaggerStage
from pipeline.training.config import SAMPLES, TrainConfig
from pipeline.training.settings import TaggerSettings, TrainingSettings
from pipeline.training.shards import ShardSamples, map_samples, range_cache, shards_of
from storage.artifact import Artifact
from storage.errors import FatalError
from storage.runs import Run
from storage.shards.sample_map import SampleMap

_VERSIONS = {stage.name: stage.version for stage in (PretrainStage, TrainTaggerStage)}


@dataclass(frozen=True)
class RecordedTraining:
    """A training run that a run has finished."""

    run: Run
    step_name: str
    """The step of the run, e.g. pretrain:pseudo."""
    settings: TrainingSettings
    shards: tuple[Artifact, ...]
    facts: Mapping[str, Any]

    @classmethod
    def find(cls, run: Run, step_name: str | None) -> RecordedTraining:
        """Finds a training by the name of its step; None: the only one. Raises `FatalError` that lists those of the run."""
        name = step_name if step_name is not None else _only_one(run)
        artifact = next(iter(run.artifacts(name).values()), None)
        if artifact is None or run.stage(name) not in _VERSIONS:
            raise FatalError(f"run {run.name!r} has no training {name!r}; its training runs: {_listed(run)}")
        terms = artifact.manifest.terms
        if terms["version"] != _VERSIONS[run.stage(name)]:
            raise FatalError(
                f"{name} of run {run.name!r} was trained by version {terms['version']} of its stage, but this one is version "
                f"{_VERSIONS[run.stage(name)]}, which orders images differently; use the rlip that trained it"
            )
        model = TaggerSettings if run.stage(name) == TrainTaggerStage.name else TrainingSettings
        try:
            settings = model.model_validate({"processes": 1, **terms["settings"]})
        except ValidationError as error:
            raise FatalError(f"{name} of run {run.name!r} has settings of another version: {error}") from error
        return cls(run, name, settings, _shards(run, artifact), artifact.manifest.facts)

    @property
    def steps(self) -> int | None:
        """The number of its steps; None where it was not recorded."""
        found = self.facts.get("steps")
        return found if isinstance(found, int) else None

    @property
    def left_out(self) -> Mapping[str, str]:
        """Key → reason, of the samples that were left out because they were damaged."""
        found = self.facts.get("damaged")
        return found if isinstance(found, dict) else {}

    @contextmanager
    def samples(self) -> Iterator[ShardSamples]:
        """Opens the training set. Raises `FatalError` when its shards are gone."""
        kind: Literal["pretrain", "tagger"] = "tagger" if isinstance(self.settings, TaggerSettings) else "pretrain"
        with TemporaryDirectory(prefix="rlip-") as folder:
            work = Path(folder)
            config = TrainConfig(kind=kind, settings=self.settings, work=work, shards=tuple(shards_of(self.shards)))
            map_samples(config)
            opened = SampleMap(work / SAMPLES)
            yield ShardSamples(opened, range_cache(config), self.settings.predicate_form)


def _shards(run: Run, artifact: Artifact) -> tuple[Artifact, ...]:
    """The shards that a training read, in its order."""
    keys = artifact.manifest.upstream.get("shards", [])
    found: dict[str, Artifact] = {}
    for stage in ("shard", "shard_tagger"):
        found |= run.store.find_all(stage, [key for key in keys if key not in found])
    gone = [key[:12] for key in keys if key not in found]
    if gone:
        raise FatalError(
            f"{len(gone)} of {len(keys)} shards that the training read are gone ({', '.join(gone[:5])}); run the recipe again"
        )
    return tuple(found[key] for key in keys)


def _only_one(run: Run) -> str:
    trainings = _trainings(run)
    if len(trainings) != 1:
        raise FatalError(
            f"run {run.name!r} has {len(trainings)} training runs; name one with --step-name, of: {_listed(run)}"
        )
    return trainings[0]


def _trainings(run: Run) -> list[str]:
    return sorted(name for name in run.steps() if run.stage(name) in _VERSIONS)


def _listed(run: Run) -> str:
    return ", ".join(_trainings(run)) or "none"
