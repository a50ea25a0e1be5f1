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
    metrics: tuple[Literal["open_images", "scene_graphs"], ...] = ()
    """Figures besides HICO-DET's: open_images (score_wtd and its parts), scene_graphs (R@K, mR@K, ng-R@K)."""
    batch_size: int = runtime(16, ge=1)
    """Images per batch of the network."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Where the network runs. auto: on the first GPU, if there is one, else on the CPU."""


class EvaluateStage(Stage):
    """Scores one set of weights on the test sets, whose label names the training was not given."""

    name = "evaluate"
    version = 4
    reads = ("images", "weights")
    writes = "scores"
    schema = METRICS
    whole = True
    settings: EvaluateSettings

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Predict every test image, then score; unreadable images go to quarantine.

        Predictions are kept as `detections.parquet`, which `rlip evaluate` reads.
        """
        from models.weights import load
        from pipeline.evaluation.detections.writer import DetectionsWriter
        from pipeline.evaluation.test_set import Scored, TestSet

        weights = inputs.artifact("weights")
        size = json.loads(weights.file("vocabulary.json").read_bytes())["image_size"]
        network = load(weights.file("model.safetensors"), weights.folder).to(choose_device(self.settings.device))
        test_set = TestSet(inputs.table("images").to_pylist(), self.image_folders)
        settings, names = self.settings, test_set.names
        file = work / "detections.parquet"
        scored = []
        with DetectionsWriter(file) as writer:
            predicted = test_set.predict(network, size, settings.subject, settings.batch_size, report)
            for position, found in predicted:
                row = test_set.rows[position]
                writer.write({name: row[name] for name in ("image_id", "uri", "width", "height")} | found.row(names))
                scored.append(Scored.of(position, found))
        scores = test_set.scores(scored, settings.metrics)
        table = pa.Table.from_pylist([{"step": 0, "name": n, "value": v} for n, v in scores.items()], schema=METRICS)
        rejected = test_set.rejected
        files = {file.name: file}
        return Output(table, files, rejected, rows_in=len(test_set.rows), rows_out=len(scored), facts=scores)
