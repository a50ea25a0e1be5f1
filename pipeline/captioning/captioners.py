"""The captioners of this project: which files they read, and how they are opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.captioning.captioner import Captioner, CaptionerPlugin
from pipeline.captioning.model_folder import find_lavis_model, find_lavis_python, find_model, model_fault
from pipeline.data.datasets.source import file_fault, text_fault


class _Own(CaptionerPlugin):
    """A captioner whose settings are those of the section."""

    def row_settings(self) -> dict[str, Any]:
        return self.settings.row_settings()


class Blip(_Own):
    """BLIP in transformers."""

    imports = ("transformers.models.blip.modeling_blip",)
    uses_gpu = True

    def files(self) -> dict[str, Path]:
        return {"captioner": find_model(self.settings.model, self.settings.hub)}

    def faults(self) -> Iterator[tuple[str, str]]:
        """What the model's folder lacks."""
        folder = Path(self.settings.model)
        if folder.is_dir() and (fault := model_fault(folder)):
            yield "caption.model", f"{folder}: {fault}"

    def open(self, worker: int = 0) -> Captioner:
        from pipeline.captioning.blip import BlipCaptioner

        return BlipCaptioner(self.settings, worker)


class Lavis(_Own):
    """BLIP in LAVIS, in a separate environment."""

    def files(self) -> dict[str, Path]:
        """The checkpoint and its vocabulary."""
        find_lavis_python(self.settings.lavis_python)
        model, vocabulary = find_lavis_model(self.settings.model)
        return {"captioner": model, "vocabulary": vocabulary}

    def open(self, worker: int = 0) -> Captioner:
        from pipeline.captioning.lavis import LavisCaptioner

        return LavisCaptioner(self.settings)


class Recorded(_Own):
    """Caption files. Their names, which captions carry, and their contents are part of the key."""

    def row_settings(self) -> dict[str, Any]:
        return {"recorded": [path.name for path in self.settings.recorded]}

    def files(self) -> dict[str, Path]:
        return {f"recorded {number}": path for number, path in enumerate(self.settings.recorded)}

    def faults(self) -> Iterator[tuple[str, str]]:
        """Files that are not JSON."""
        for path in self.settings.recorded:
            if path.is_file() and (what := file_fault(path, "JSON") or text_fault(path)):
                yield "caption.recorded", f"{path} {what}"

    def open(self, worker: int = 0) -> Captioner:
        from pipeline.captioning.recorded import RecordedCaptioner

        return RecordedCaptioner(self.settings)
