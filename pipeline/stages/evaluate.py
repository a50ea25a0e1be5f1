"""Stage `evaluate`: measures zero-shot triplet mAP under HICO-DET's rules, and detection AP50."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.runtime.settings import Settings, runtime
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.tables import METRICS
from tagger.english.predicates import canonical


class EvaluateSettings(Settings):
    """What the evaluation counts."""

    subject: str | None = None
    """Category that a pair's most probable subject must have for the pair to count, e.g. "person" for HICO-DET; unset: any."""
    batch_size: int = runtime(16, ge=1)
    """Images per batch of the network."""


class EvaluateStage(Stage):
    """Scores one set of weights on the test sets, whose label names the training was not given."""

    name = "evaluate"
    version = 1
    reads = ("images", "weights")
    writes = "scores"
    schema = METRICS
    whole = True
    settings: EvaluateSettings

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Predict every test image, then score; unreadable images go to quarantine."""
        from models.weights import load
        from pipeline.evaluation.detection import average_precision_50
        from pipeline.evaluation.hico import HicoRules, score_hico
        from pipeline.evaluation.zero_shot import TestNames, ZeroShot, truth_detections, truth_interactions

        rows, images, rejected = self._read(inputs)
        forms = {r["predicate"]: canonical(r["predicate"]) for row in rows for r in row["relations"]}
        names = TestNames(
            objects=tuple(sorted({box["category"] for row in rows for box in row["boxes"]})),
            predicates=tuple(sorted(set(forms.values()))),
        )
        weights = inputs.artifact("weights")
        size = json.loads(weights.file("vocabulary.json").read_bytes())["image_size"]
        rules = HicoRules()
        model = ZeroShot(load(weights.file("model.safetensors"), weights.folder), names, size, self.settings.subject)
        found = sorted(model.predict(images, rules, self.settings.batch_size, report), key=lambda each: each[0])
        interactions = score_hico(
            [each[1] for each in found], [truth_interactions(row, names, forms) for row in rows], rules
        )
        boxes = average_precision_50([each[2] for each in found], [truth_detections(row, names) for row in rows])
        scores = {
            "zero_shot_map": interactions.mean(),
            "zero_shot_recall": interactions.mean_recall,
            "detection_ap50": sum(boxes.values()) / max(len(boxes), 1),
            "triplets": float(len(interactions.average_precision)),
        }
        table = pa.Table.from_pylist([{"step": 0, "name": n, "value": v} for n, v in scores.items()], schema=METRICS)
        return Output(table, rejected=rejected, rows_in=len(rows) + len(rejected), rows_out=len(rows), facts=scores)

    def _read(self, inputs: Inputs) -> tuple[list[dict[str, Any]], list[Any], list[Rejected]]:
        rows, images, rejected = [], [], []
        for row in inputs.table("images").to_pylist():
            try:
                images.append(read_image(locate_image(self.image_folders, row)))
                rows.append(row)
            except BadImage as bad:
                rejected.append(Rejected(row["image_id"], bad.reason, bad.value))
        return rows, images, rejected
