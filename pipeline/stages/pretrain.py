"""Stage `pretrain`: trains RLIPv2 on the shards to detect and name related pairs (docs/networks.md, 6)."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.training.config import RESUMES_FROM
from pipeline.training.settings import TrainingSettings
from storage.tables import METRICS


class PretrainStage(Stage):
    """Makes the network's weights (`model.safetensors`), with its training set's names, its tokenizer and metrics per step."""

    name = "pretrain"
    version = 5
    reads = ("shards",)
    writes = "weights"
    schema = METRICS
    whole = True
    streams = frozenset({"shards"})
    resumes_from = RESUMES_FROM
    settings: TrainingSettings

    def weights(self) -> dict[str, Path]:
        """The tokenizer and the initial weights, where the settings name them."""
        return self.settings.files()

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Train in separate processes. Must be called from the main thread."""
        from pipeline.training.config import TrainConfig
        from pipeline.training.run import run_training
        from pipeline.training.shards import shards_of

        shards = tuple(shards_of(inputs.artifacts("shards")))
        return run_training(TrainConfig(kind="pretrain", settings=self.settings, work=work, shards=shards), report)
