"""What a training needs beside samples: its vocabulary and its tokenizer, made once and kept in the work folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.training.config import TOKENIZER, VOCABULARY, Job
from pipeline.training.sample import TrainingSample
from pipeline.training.sources import ImageSource, ShardSource, Source, Subset
from pipeline.training.tagger_settings import TaggerSettings
from pipeline.training.texts import NO_OBJECTS, Vocabulary
from pipeline.training.tokenizer import copy_tokenizer, make_tokenizer, tokenizer_files
from storage.errors import Terminal


def prepare(job: Job) -> dict[str, Path]:
    """Write vocabulary and tokenizer unless an earlier attempt has; returns the files to keep with the weights.

    Raises `Terminal` when there is nothing to train on.
    """
    vocabulary_file, tokenizer = job.work / VOCABULARY, job.work / TOKENIZER
    if not vocabulary_file.is_file():
        vocabulary = Vocabulary.of(_samples(training_source(job), job))
        config = job.settings.network
        if job.settings.tokenizer is not None:
            copy_tokenizer(job.settings.tokenizer, tokenizer)
        else:
            names = (*vocabulary.objects.names, *vocabulary.predicates.names, NO_OBJECTS)
            make_tokenizer(names, config["text"]["vocabulary"], tokenizer)
        vocabulary.save(vocabulary_file, image_size=job.settings.image_size)
    return {VOCABULARY: vocabulary_file, **tokenizer_files(tokenizer)}


def training_source(job: Job) -> Source:
    """The samples that the job trains on."""
    if job.kind == "pretrain":
        return ShardSource([(shard.tar, shard.index) for shard in job.shards])
    assert isinstance(job.settings, TaggerSettings)
    images = ImageSource(job.tables, job.image_folders)
    return Subset(images, images.split(job.settings.held_out)[0])


def _samples(source: Source, job: Job) -> Iterator[TrainingSample]:
    if not len(source):
        needed = "an image with a box" if job.kind == "pretrain" else "an image with a relation between its boxes"
        raise Terminal(f"nothing to train on: the {job.kind} training set lacks {needed}; look at what ingest rejected")
    for position in range(len(source)):
        yield source.labels(position)
