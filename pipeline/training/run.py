"""Runs a whole training for a stage: prepares it, launches its processes, and collects what they made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.runtime.stage import Output, ReportProgress
from pipeline.training.config import METRICS_LOG, MODEL, TrainConfig
from pipeline.training.launch.launcher import launch
from pipeline.training.launch.rank_processes import WORKER
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.prepare import prepare
from pipeline.training.settings import CALIBRATION


def run_training(config: TrainConfig, report: ReportProgress, worker: str = WORKER) -> Output:
    """Trains from the last checkpoint in `config.work`, if any. Returns the metrics and the files to keep.

    `worker`: the module that each process runs.
    """
    kept = prepare(config)
    summary = launch(config, report, worker)
    files: Mapping[str, Path] = {MODEL: config.work / MODEL, **kept}
    if (config.work / CALIBRATION).is_file():
        files = {**files, CALIBRATION: config.work / CALIBRATION}
    table = MetricsLog(config.work / METRICS_LOG).table()
    return Output(table, files, rows_in=summary.images, rows_out=summary.images, facts=summary.model_dump())
