"""Scores predictions by the rules of a public benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.cli.evaluate import Evaluation as Evaluation, score
from pipeline.evaluation.detections.table import DetectionsWriter
from rlip.arguments import checked
from rlip.model import Prediction

_score: Callable[..., Evaluation] = checked(score)


def evaluate(
    predictions: str | Path | Prediction | Iterable[str | Path] | Iterable[Prediction],
    *,
    benchmark: str,
    annotations: str | Path,
    **options: Any,
) -> Evaluation:
    """Scores predictions, or a detections file from any source, by the rules of a public benchmark.

    Several files are compared with the first. `benchmark`: hico-det, vcoco, open-images, vrd or vg. `annotations`: its
    ground truth. `options`: as in `rlip evaluate`, e.g. split and known_object; `--file` is files, a list, and
    `--report` is report_folder.
    """
    given = [predictions] if isinstance(predictions, str | Path | Prediction) else list(predictions)
    with TemporaryDirectory(prefix="rlip-evaluate-") as folder:
        files = [each for each in given if not isinstance(each, Prediction)]
        if found := [each for each in given if isinstance(each, Prediction)]:
            files.append(Path(folder, "predictions.parquet"))
            with DetectionsWriter(Path(folder, "predictions.parquet")) as writer:
                for prediction in found:
                    writer.write(prediction.row)
        return _score(benchmark=benchmark, ground_truth=annotations, detections=files, **options)
