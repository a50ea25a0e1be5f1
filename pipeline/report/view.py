"""What a report is told about a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.captioning.settings import CaptionSettings
from pipeline.labels.kept_labels import ChoiceSettings
from storage.runs import Run


@dataclass(frozen=True)
class RunView:
    """A run with those settings of its recipe that figures and reports depend on."""

    run: Run
    label_sets: tuple[str, ...]
    """Data sets that were captioned and tagged."""
    choice: ChoiceSettings
    """Which labels the shards keep."""
    captioning: CaptionSettings
    image_folders: Mapping[str, Path | str]
    """Data set → where its images lie."""
    recipe: Mapping[str, Any]
    """The whole recipe as JSON values, for display."""
