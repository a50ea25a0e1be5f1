"""What a stage hands to its training processes: one JSON file, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.data.images.folders import ImageRoot
from pipeline.runtime.settings import Settings
from pipeline.training.settings import TaggerSettings, TrainingSettings

MODEL = "model.safetensors"
METRICS_LOG = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
RESUMES_FROM = (CHECKPOINT, METRICS_LOG)
"""All that another machine needs of `work` to go on."""
VOCABULARY = "vocabulary.json"
TOKENIZER = "tokenizer"
ERROR = "error.txt"
SUMMARY = "summary.json"
LAUNCHER = "RLIP_LAUNCHER"
"""Environment variable: id of the process that a training process must not outlive."""


class Shard(Settings):
    """A tar and its index table."""

    tar: Path
    index: Path


class TrainConfig(Settings):
    """A training: of what, on what, how. `work` keeps its checkpoints and gets its results."""

    kind: Literal["pretrain", "tagger"]
    settings: TrainingSettings | TaggerSettings
    work: Path
    shards: tuple[Shard, ...] = ()
    """pretrain: the training set."""
    tables: tuple[Path, ...] = ()
    """tagger: `images` tables of the training set."""
    image_folders: dict[str, ImageRoot] = Field(default_factory=dict)
    """tagger: data set → folder of its images."""


class Summary(Settings):
    """How a training went, for people."""

    steps: int
    resumed_from: int
    images: int
    """Images of the training set."""
    images_seen: int
    """Images that the steps since `resumed_from` were trained on, over all epochs."""
    images_per_second: float
    processes: int
    device: str
