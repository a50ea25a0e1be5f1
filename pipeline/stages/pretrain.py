"""Stage `pretrain`: trains RLIPv2 on the shards to detect and name related pairs (docs/networks.md, 6)."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.training.config import RESUMES_FROM
from pipeline.training.settings import TrainingSettings
from storage.tables import METRICS


class PretrainStage(Stage):
    """Makes the network's weights (`model.safetensors`), the names in its training set, its tokenizer and metrics."""

    name = "pretrain"
    version = 6
    reads = ("shards", "images")
    writes = "weights"
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
        from pipeline.training.config import TestTables, TrainConfig
        from pipeline.training.run import run_training
        from pipeline.training.shards import shards_of

        shards = tuple(shards_of(inputs.artifacts("shards")))
        config = TrainConfig(kind="pretrain", settings=self.settings, work=work, shards=shards)
        if not self.settings.evaluate_every:
            return run_training(config, report)
        tables = tuple(artifact.file("images.parquet") for artifact in inputs.artifacts("images"))
        test = TestTables(tables=tables, folders=dict(self.image_folders))
        return run_training(config.model_copy(update={"test": test}), report, "pipeline.stages.pretrain_worker")
