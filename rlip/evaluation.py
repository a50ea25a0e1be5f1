"""Scores predictions by the rules of a public benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import validate_call

from pipeline.cli.evaluate import Evaluation as Evaluation
from pipeline.cli.evaluate import score
from pipeline.evaluation.detections.table import DetectionsWriter
from rlip.model import Prediction

_score: Callable[..., Evaluation] = validate_call(score)


def evaluate(
    predictions: str | Path | Iterable[Prediction], *, benchmark: str, annotations: str | Path, **options: Any
) -> Evaluation:
    """Scores predictions, or a file of detections whoever made it, by the rules of a public benchmark.

    `benchmark`: hico-det, vcoco, open-images, vrd or vg. `annotations`: its ground truth. `options`: those of `rlip
    evaluate`, e.g. split and known_object; `--file` is files, a list, and `--report` is report_folder.
    """
    with TemporaryDirectory(prefix="rlip-evaluate-") as folder:
        if isinstance(predictions, str | Path):
            file = Path(predictions)
        else:
            file = Path(folder, "predictions.parquet")
            with DetectionsWriter(file) as writer:
                for prediction in predictions:
                    writer.write(prediction.row)
        return _score(benchmark, ground_truth=annotations, detections=file, **options)
