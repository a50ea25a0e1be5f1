"""The configuration that a stage hands to its training processes as one JSON file, and the names of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.runtime.settings import Settings
from pipeline.training.settings import TaggerSettings, TrainingSettings

MODEL = "model.safetensors"
METRICS_LOG = "metrics.jsonl"
WORKER = "pipeline.training.worker"
"""The module of a rank that only trains."""
CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints."""
RESUMES_FROM = "resume.json"
"""File of `work` that lists the files that another machine needs to resume the training run."""
SAMPLES = "samples"
"""Folder of the map of the samples to train on."""
HELD_OUT = "held_out"
"""Folder of the map of the samples that measure the tagger."""
RANGES = "ranges"
"""Folder of what was read from a remote store."""
VOCABULARY = "vocabulary.json"
TOKENIZER = "tokenizer"
SUMMARY = "summary.json"
PROGRESS = "progress.json"
WARNINGS = "warnings.jsonl"
WARNING = "warning: "


class Shard(Settings):
    """A tar, by path or URL, its name in the index, and the files that describe it and others of its partition."""

    tar: str
    name: str
    index: Path
    statistics: Path


class TestTables(Settings):
    """The test sets on which the network is evaluated during training."""

    tables: tuple[Path, ...]
    """Files of the `images` table."""
    folders: dict[str, Path | str]
    """Dataset → the folder, tar or URL of its images."""


class TrainConfig(Settings):
    """Describes a training run. `work` is the folder for its checkpoints and results."""

    settings: TrainingSettings | TaggerSettings
    work: Path
    tracking: Path = Field(default_factory=lambda values: _tracking(values))
    """Folder of what its trackers write; it outlives `work`."""
    shards: tuple[Shard, ...] = ()
    """The training set, one dataset after the other."""
    test: TestTables | None = None
    worker: str = Field(WORKER, pattern=r"^(pipeline|benchmarks|tests)(\.[a-z_]+)+$")
    """The module whose `main` each rank runs with the path of this configuration. It returns the exit code. Only the
    project's own: a joining node reads the configuration from the coordinator."""


def _tracking(values: dict[str, Any]) -> Path:
    key: str = values["work"].name.removeprefix("scratch-")[:12]
    folder: Path = values["settings"].tracking
    return folder.absolute() / f"{values['settings'].kind}-{key}"


class TrainingProgress(Settings):
    """How far a training run is. Rank 0 writes it again and again, for the launcher to report."""

    step: int
    total: int
    message: str
    """Begins with `WARNING` if people must not miss it."""

    def write(self, work: Path) -> None:
        """Replaces the file in the work folder, or adds a warning to those before. Neither needs to survive a crash, so
        nothing is forced to disk."""
        if self.message.startswith(WARNING):
            with (work / WARNINGS).open("a") as warnings:
                warnings.write(f"{self.model_dump_json()}\n")
            return
        aside = work / f".{PROGRESS}.new"
        aside.write_text(self.model_dump_json())
        aside.rename(work / PROGRESS)


class Summary(Settings):
    """Summary of a finished training run, for people."""

    steps: int
    resumed_from: int
    images: int
    """Number of images in the training set."""
    images_seen: int
    """Number of images that the steps of this execution trained on; an image counts once per epoch."""
    images_per_second: float
    processes: int
    device: str
    tracking: str = ""
    """Folder of what its trackers wrote."""
    data_wait: float = 0.0
    """Share of the time of the steps that rank 0 spent waiting for data."""
    checkpoint_wait: float = 0.0
    """Seconds for which it waited for checkpoints."""
    damaged: dict[str, str] = Field(default_factory=dict)
    """Damaged samples, which are skipped, by key, with the reason."""
