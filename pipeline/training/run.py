"""Runs a whole training run for a stage: prepares it, launches its processes, and collects their results."""

from __future__ import annotations

from pathlib import Path

from models.config import NO_OBJECTS
from pipeline.runtime.logs import log
from pipeline.runtime.stage import Output, ReportProgress
from pipeline.training.config import METRICS_LOG, MODEL, TOKENIZER, VOCABULARY, TrainConfig
from pipeline.training.launch.launcher import launch
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.settings import CALIBRATION
from pipeline.training.shards import map_samples
from pipeline.training.vocabulary import Vocabulary, copy_tokenizer, differ, make_tokenizer, tokenizer_files
from storage.errors import FatalError
from storage.tables import read_table


def prepare(config: TrainConfig) -> dict[str, Path]:
    """Writes vocabulary and tokenizer unless an earlier attempt did. Returns the files to keep with the weights.

    Raises `FatalError` when there is nothing to train on.
    """
    vocabulary_file, tokenizer = config.work / VOCABULARY, config.work / TOKENIZER
    if not len(map_samples(config)):
        needed = "an image with a box" if config.kind == "pretrain" else "an image with a relation between its boxes"
        raise FatalError(
            f"nothing to train on: the {config.kind} training set lacks {needed}; check what ingest rejected, and what "
            "stage shard excluded, such as the images of data.test (pretrain.allow_overlap)"
        )
    if not vocabulary_file.is_file():
        statistics = [read_table(path) for path in sorted({shard.statistics for shard in config.shards})]
        vocabulary = Vocabulary.of(statistics, config.settings.predicate_form)
        if not vocabulary.predicates.names and config.settings.loss.predicates:
            raise FatalError(
                "nothing to learn predicates from: no image of the training set has a relation; lower shard.threshold, "
                "name a dataset with relations in data.mix, or set loss.predicates = 0 to learn boxes only"
            )
        pretrained = config.settings.pretrained
        if chosen := config.settings.tokenizer or (pretrained and pretrained.parent):
            copy_tokenizer(chosen, tokenizer)
            if pretrained and differ(chosen, pretrained.parent):
                log.warning(
                    "the tokenizer differs from the one beside the pretrained weights",
                    extra={"fields": {"tokenizer": str(chosen), "pretrained": str(pretrained)}},
                )
        else:
            names = (*vocabulary.objects.names, *vocabulary.predicates.names, NO_OBJECTS)
            make_tokenizer(names, config.settings.network.text.vocabulary, tokenizer)
        vocabulary.save(vocabulary_file, image_size=config.settings.whole_size)
    return {VOCABULARY: vocabulary_file, **tokenizer_files(tokenizer)}


def run_training(config: TrainConfig, report: ReportProgress) -> Output:
    """Trains from the last checkpoint in `config.work`, if any. Returns the metrics and the files to keep."""
    files: dict[str, Path] = {MODEL: config.work / MODEL, **prepare(config)}
    summary = launch(config, report)
    if (config.work / CALIBRATION).is_file():
        files[CALIBRATION] = config.work / CALIBRATION
    table = MetricsLog(config.work / METRICS_LOG).table()
    return Output(table, files, rows_in=summary.images, rows_out=summary.images, facts=summary.model_dump())
