"""Stage `pretrain`: RLIPv2 learns to find and name related pairs from the shards (spec rlipv2_network 4 and 5)."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.stages.shard import SHARD_FILE
from pipeline.training.config import RESUMES_FROM
from pipeline.training.settings import TrainingSettings
from storage.tables import METRICS


class PretrainStage(Stage):
    """The network's weights (`model.safetensors`), the names of its training set, its tokenizer, and metrics by step."""

    name = "pretrain"
    version = 3
    reads = ("shards",)
    writes = "weights"
    schema = METRICS
    whole = True
    resumes_from = RESUMES_FROM
    settings: TrainingSettings

    def weights(self) -> dict[str, Path]:
        """Tokenizer and initial weights, where the settings name them."""
        return self.settings.files()

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Train, in processes of their own; must be called from the main thread."""
        from pipeline.training.config import Shard, TrainConfig
        from pipeline.training.launch import run_training

        shards = [Shard(tar=a.file(SHARD_FILE), index=a.file("shards.parquet")) for a in inputs.artifacts("shards")]
        return run_training(
            TrainConfig(kind="pretrain", settings=self.settings, work=work, shards=tuple(shards)), report
        )
