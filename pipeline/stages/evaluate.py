"""Stage `evaluate`: measures zero-shot triplet mAP under HICO-DET's rules, and detection AP50."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pyarrow as pa

from pipeline.runtime.processes import choose_device
from pipeline.runtime.settings import Settings, runtime
from pipeline.runtime.stage import Inputs, Output, ReportProgress, Stage
from storage.tables import METRICS


class EvaluateSettings(Settings):
    """What the evaluation counts."""

    subject: str | None = None
    """Category that a pair's most probable subject must have for the pair to count, e.g. "person" for HICO-DET; unset: any."""
    batch_size: int = runtime(16, ge=1)
    """Images per batch of the network."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Where the network runs. auto: on the first GPU, if there is one, else on the CPU."""


class EvaluateStage(Stage):
    """Scores one set of weights on the test sets, whose label names the training was not given."""

    name = "evaluate"
    version = 3
    reads = ("images", "weights")
    writes = "scores"
    schema = METRICS
    whole = True
    settings: EvaluateSettings

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Predict every test image, then score; unreadable images go to quarantine."""
        from models.weights import load
        from pipeline.evaluation.test_set import TestSet

        weights = inputs.artifact("weights")
        size = json.loads(weights.file("vocabulary.json").read_bytes())["image_size"]
        network = load(weights.file("model.safetensors"), weights.folder).to(choose_device(self.settings.device))
        test_set = TestSet(inputs.table("images").to_pylist(), self.image_folders)
        found = test_set.predict(network, size, self.settings.subject, self.settings.batch_size, report)
        scores = test_set.scores(found)
        table = pa.Table.from_pylist([{"step": 0, "name": n, "value": v} for n, v in scores.items()], schema=METRICS)
        rejected = test_set.rejected
        return Output(table, rejected=rejected, rows_in=len(test_set.rows), rows_out=len(found), facts=scores)
