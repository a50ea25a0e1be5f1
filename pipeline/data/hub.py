"""Finds models on the Hugging Face hub: in its local cache, or by a download where the settings allow it."""

from __future__ import annotations

from pathlib import Path

from scenes import SAMPLE_WEIGHTS
from storage.errors import FatalError, did_you_mean, first_line

_PATTERNS = ["*.json", "*.txt", "model*.safetensors"]


def hub_folder(model: str, may_download: bool, setting: str, ways: str) -> Path:
    """The folder of a model by its name on the hub.

    Raises `FatalError` that names the `setting`, and `ways` to get the model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_PATTERNS, local_files_only=not may_download))
    except HFValidationError:
        raise FatalError(f"{model}: no such file or folder (setting: {setting}). {ways}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        failed = f"it could not be downloaded ({first_line(error)})"
        tried = failed if may_download else "it is not in the local hub cache, and hub = false"
        meant = did_you_mean(model, SAMPLE_WEIGHTS)
        raise FatalError(f"{model}: no such folder{meant}, and {tried} (setting: {setting}). {ways}") from error
