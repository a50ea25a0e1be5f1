"""Stage `train_tagger`: the Relation Tagger learns from sets that state relations (spec rlipv2_network 3.6)."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from pipeline.training.config import RESUMES_FROM
from pipeline.training.settings import TaggerSettings
from storage.tables import METRICS


class TrainTaggerStage(Stage):
    """The tagger's weights (`model.safetensors`), the names it knows, its tokenizer, and its metrics by step.

    `calibration.json` tells what its scores mean, where images were held out.
    """

    name = "train_tagger"
    version = 5
    reads = ("images",)
    writes = "tagger"
    schema = METRICS
    whole = True
    resumes_from = RESUMES_FROM
    settings: TaggerSettings

    def weights(self) -> dict[str, Path]:
        """Tokenizer and initial weights, where the settings name them."""
        return self.settings.files()

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Train, in processes of their own; must be called from the main thread."""
        from pipeline.training.config import TrainConfig
        from pipeline.training.launch import run_training

        job = TrainConfig(
            kind="tagger",
            settings=self.settings,
            work=work,
            tables=tuple(artifact.file("images.parquet") for artifact in inputs.artifacts("images")),
            image_folders=dict(self.image_folders),
        )
        return run_training(job, report)
