"""From a finished training to what its stage commits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.runtime.stage import Output, Report
from pipeline.training.config import METRICS_LOG, MODEL, Job
from pipeline.training.launch import launch
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.prepare import prepare
from pipeline.training.tagger_settings import CALIBRATION


def carry_out_training(job: Job, report: Report) -> Output:
    """Train, or go on from the last checkpoint in `job.work`; model, vocabulary, tokenizer, calibration, metrics."""
    kept = prepare(job)
    summary = launch(job, report)
    files: Mapping[str, Path] = {MODEL: job.work / MODEL, **kept}
    if (job.work / CALIBRATION).is_file():
        files = {**files, CALIBRATION: job.work / CALIBRATION}
    table = MetricsLog(job.work / METRICS_LOG).table()
    return Output(table, files, rows_in=summary.images, rows_out=summary.images, facts=summary.model_dump())
