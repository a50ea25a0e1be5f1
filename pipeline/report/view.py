"""A run with the settings that its report depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.captioning.settings import CaptionSettings
from pipeline.labels.kept_labels import ChoiceSettings
from storage.runs import Run

REPORTS = "reports"
"""Folder of reports in a store, unless the recipe names another."""


@dataclass(frozen=True)
class RunView:
    """A run with the recipe settings that figures and reports depend on."""

    run: Run
    label_sets: tuple[str, ...]
    """Captioned and tagged datasets."""
    choice: ChoiceSettings
    """Which labels the shards keep."""
    captioning: CaptionSettings
    image_folders: Mapping[str, Path | str]
    """Dataset → location of its images."""
    recipe: Mapping[str, Any]
    """The recipe of the last execution as JSON values, for display; empty for imported labels."""
