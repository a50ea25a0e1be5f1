"""The configuration that a stage hands to its training processes as one JSON file, and the names of their files."""

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
"""The files of `work` that another machine needs to resume the training."""
VOCABULARY = "vocabulary.json"
TOKENIZER = "tokenizer"
ERROR = "error.txt"
SUMMARY = "summary.json"
LAUNCHER = "RLIP_LAUNCHER"
"""Environment variable with the id of the process that a training process must not outlive."""


class Shard(Settings):
    """A tar and its index table."""

    tar: Path
    index: Path


class TrainConfig(Settings):
    """Describes a training. `work` is the folder for its checkpoints and results."""

    kind: Literal["pretrain", "tagger"]
    settings: TrainingSettings | TaggerSettings
    work: Path
    shards: tuple[Shard, ...] = ()
    """Training set (pretrain)."""
    tables: tuple[Path, ...] = ()
    """The `images` tables of the training set (tagger)."""
    image_folders: dict[str, ImageRoot] = Field(default_factory=dict)
    """Data set → folder of its images (tagger)."""


class Summary(Settings):
    """Summary of a finished training, for people."""

    steps: int
    resumed_from: int
    images: int
    """Number of images in the training set."""
    images_seen: int
    """Number of images that the steps since `resumed_from` trained on; an image counts once per epoch."""
    images_per_second: float
    processes: int
    device: str
