"""Stages `train_tagger` and `pretrain`: train the Relation Tagger on ground-truth relations (docs/labels.md, Training
the tagger) and RLIPv2 on shards (docs/networks.md, 6)."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.training.config import RESUMES_FROM, TestTables, TrainConfig
from pipeline.training.settings import TaggerSettings, TrainingSettings
from storage.artifact import Artifact
from storage.tables import METRICS


class TrainingStage(Stage):
    """Makes a network's weights (`model.safetensors`), the names in its training set, its tokenizer and metrics."""

    uses_gpu = True
    loads = "the network"
    schema = METRICS
    whole = True
    streams = frozenset({"shards"})
    resumes_from = RESUMES_FROM
    settings: TrainingSettings

    def files(self) -> dict[str, Path]:
        """The tokenizer and the pretrained weights, if the settings name them."""
        return self.settings.files()

    def imports(self) -> tuple[str, ...]:
        """The module of its ranks."""
        return ("pipeline.training.worker",)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Train in separate processes. Must be called from the main thread."""
        from pipeline.training.launch.launcher import run_training
        from pipeline.training.shards import shards_of

        shards = tuple(shards_of(inputs.artifacts("shards")))
        config = TrainConfig(settings=self.settings, work=work, shards=shards)
        if self.settings.evaluate_every:  # never of a tagger
            tables = tuple(artifact.file("images.parquet") for artifact in inputs.artifacts("images"))
            test = TestTables(tables=tables, folders=dict(self.image_folders))
            config = config.model_copy(update={"test": test, "worker": "pipeline.stages.pretrain_worker"})
        return run_training(config, report)


class TrainTaggerStage(TrainingStage):
    """Makes the tagger. `calibration.json` maps its scores to probabilities. It exists if images were held out."""

    name = "train_tagger"
    version = 10
    reads = ("shards",)
    writes = "tagger"
    settings: TaggerSettings

    def takes(self, table: str, artifact: Artifact) -> bool:
        """Only partitions with relations: new images without any do not require training again."""
        return artifact.manifest.counts.rows_out > 0


class PretrainStage(TrainingStage):
    """Makes the network that detects and names related pairs."""

    name = "pretrain"
    version = 6
    reads = ("shards", "images")
    writes = "weights"
