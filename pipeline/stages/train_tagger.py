"""Stage `train_tagger`: trains the Relation Tagger on ground-truth relations (docs/labels.md, Training the tagger)."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.training.config import RESUMES_FROM
from pipeline.training.settings import TaggerSettings
from storage.artifact import Artifact
from storage.tables import METRICS


class TrainTaggerStage(Stage):
    """Makes the tagger's weights (`model.safetensors`), the names it knows, its tokenizer and metrics per step.

    `calibration.json` maps its scores to probabilities. It exists if images were held out.
    """

    name = "train_tagger"
    version = 9
    reads = ("shards",)
    writes = "tagger"
    loads = "the network"
    schema = METRICS
    whole = True
    streams = frozenset({"shards"})
    resumes_from = RESUMES_FROM
    settings: TaggerSettings

    def files(self) -> dict[str, Path]:
        """The tokenizer and the pretrained weights, if the settings name them."""
        return self.settings.files()

    def takes(self, table: str, artifact: Artifact) -> bool:
        """Only partitions with relations: new images without any do not require training again."""
        return artifact.manifest.counts.rows_out > 0

    def imports(self) -> tuple[str, ...]:
        """The module of its ranks."""
        return ("pipeline.training.worker",)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Train in separate processes. Must be called from the main thread."""
        from pipeline.training.config import TrainConfig
        from pipeline.training.run import run_training
        from pipeline.training.shards import shards_of

        shards = tuple(shards_of(inputs.artifacts("shards")))
        return run_training(TrainConfig(kind="tagger", settings=self.settings, work=work, shards=shards), report)
