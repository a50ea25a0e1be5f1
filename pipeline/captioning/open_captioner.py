"""From settings to the captioner."""

from __future__ import annotations

from pipeline.captioning.captioner import Captioner
from pipeline.captioning.settings import CaptionSettings


def open_captioner(settings: CaptionSettings, worker: int = 0) -> Captioner:
    """The captioner that the settings name, ready to work as one of several workers, from number 0 on.

    Raises `Terminal` when its files, or the GPU that the settings name, are missing.
    """
    if settings.captioner == "recorded":
        from pipeline.captioning.recorded import RecordedCaptioner

        return RecordedCaptioner(settings)
    if settings.captioner == "lavis":
        from pipeline.captioning.lavis import LavisCaptioner

        return LavisCaptioner(settings)
    from pipeline.captioning.blip import BlipCaptioner

    return BlipCaptioner(settings, worker)
