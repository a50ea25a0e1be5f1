"""A pre-training that is evaluated while it runs, as a stage: its artifact holds losses and scores by step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from models.network import Network
from models.weights import save
from pipeline.runtime.processes import keep_freed_memory
from pipeline.runtime.stage import Inputs, Output, ReportProgress
from pipeline.stages.evaluate import EvaluateSettings, EvaluateStage
from pipeline.stages.pretrain import PretrainStage
from pipeline.training.config import METRICS_LOG, MODEL, SAMPLES, TOKENIZER, VOCABULARY, TrainConfig
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.ranks import Ranks
from pipeline.training.run import prepare
from pipeline.training.settings import TrainingSettings
from pipeline.training.shards import ShardSamples, shards_of
from pipeline.training.task import PretrainTask
from pipeline.training.trainer import Trainer
from pipeline.training.vocabulary import Vocabulary, copy_tokenizer
from storage.artifact import Artifact
from storage.atomic import write_atomic
from storage.shards.sample_map import SampleMap


class CurveSettings(TrainingSettings):
    milestones: int = 3
    """Number of evaluations, spread evenly over the training; the last one is of the finished weights."""


class CurveStage(PretrainStage):
    """Trains as stage `pretrain` does, in this process alone, and evaluates at milestones as stage `evaluate` does."""

    name = "curve"
    version = 1
    reads = ("shards", "images")
    writes = "curve"
    settings: CurveSettings

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(self.settings.threads)
        keep_freed_memory()
        began = time.process_time()
        shards = tuple(shards_of(inputs.artifacts("shards")))
        config = TrainConfig(kind="pretrain", settings=self.settings, work=work, shards=shards)
        prepare(config)
        task = PretrainTask(self.settings, Vocabulary.load(work / VOCABULARY), work / TOKENIZER)
        samples = ShardSamples(SampleMap(work / SAMPLES), None, self.settings.predicate_form)
        check = Milestones(inputs, self, work)
        trained = Trainer(config, task, samples, Ranks(), report, check).train(lambda: False)
        seconds = round(time.process_time() - began, 1)
        facts = {"steps": trained.steps, "images": len(samples), "resumed_from": trained.resumed_from, "cpu": seconds}
        return Output(MetricsLog(work / METRICS_LOG).table(), rows_in=len(samples), rows_out=len(samples), facts=facts)


class Milestones:
    """The trainer's check: hands the weights of a milestone to stage `evaluate`."""

    def __init__(self, inputs: Inputs, stage: CurveStage, work: Path) -> None:
        self._images, self._folder, self._number = (
            inputs.artifacts("images"),
            work / "weights",
            stage.settings.milestones,
        )
        self._evaluate = EvaluateStage(EvaluateSettings(), stage.image_folders)
        copy_tokenizer(work / TOKENIZER, self._folder)
        write_atomic(self._folder / VOCABULARY, (work / VOCABULARY).read_bytes())

    def is_due(self, step: int, total: int) -> bool:
        """At each milestone."""
        return step in milestones(total, self._number)

    def measure(self, network: Network, is_last: bool, ranks: Ranks) -> Mapping[str, float]:
        """Returns what stage `evaluate` finds."""
        save(network, self._folder / MODEL)
        given = Inputs({"images": self._images, "weights": (Artifact(self._folder),)})
        return self._evaluate.run(given, self._folder, lambda done, total, note="": None).facts


def milestones(total: int, number: int) -> list[int]:
    """The steps after which a training run of `total` steps is evaluated."""
    return [total * each // number for each in range(1, number + 1)]
