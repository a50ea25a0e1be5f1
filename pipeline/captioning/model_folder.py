"""Finds a captioner's files on disk; errors say how to get them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pipeline.data.hub import hub_folder
from storage.errors import FatalError

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_JSON_FILES = ("tokenizer.json", "processor_config.json", "preprocessor_config.json")


def find_model(model: str, hub: bool, setting: str = "model") -> Path:
    """Find the folder of a model, given as a folder or as a name on the hub. Only with `hub` is it downloaded.

    Raises `FatalError` that names what is missing, the setting, and the ways to get it.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = hub_folder(model, hub, setting, _ways(model, setting))
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [] if any(folder.glob("model*.safetensors")) else ["model.safetensors"]
    lacking += [] if any((folder / name).is_file() for name in _TOKENIZER_FILES) else [" or ".join(_TOKENIZER_FILES)]
    if lacking:
        raise FatalError(
            f"captioner model {folder}: lacks {', '.join(lacking)} (setting: {setting}). {_ways(model, setting)}"
        )
    return folder


def model_fault(folder: Path) -> str:
    """Describes what keeps a folder from being a BLIP model, by its configuration and the heads of its weights; or "".

    Weights are not loaded: that takes longer than every other check before a run.
    """
    try:
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return f"config.json can't be read ({error}); copy the folder again"
    if kind != "blip":
        return f"config.json describes a model of type {kind!r}, not 'blip'; name a folder with BLIP's weights"
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(str(path), framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{path.name} can't be read ({error}); copy it again"
    for path in (folder / name for name in _JSON_FILES):
        try:
            if path.is_file() and not isinstance(json.loads(path.read_bytes()), dict):
                return f"{path.name} is not a JSON object; copy it again"
        except (OSError, ValueError, RecursionError) as error:
            return f"{path.name} can't be read ({error}); copy it again"
    return ""


def find_lavis_model(model: str) -> tuple[Path, Path]:
    """Find the checkpoint and the vocabulary in a folder for LAVIS. Raises `FatalError` that says what is missing."""
    folder = Path(model)
    checkpoints, vocabulary = sorted(folder.glob("*.pth")), folder / "vocab.txt"
    if len(checkpoints) != 1 or not vocabulary.is_file():
        present = ", ".join(sorted(path.name for path in folder.glob("*"))[:10]) or "no such folder, or an empty one"
        raise FatalError(
            f"captioner model {folder} ({present}; setting: model): captioner 'lavis' needs a folder with one BLIP "
            "checkpoint (*.pth, e.g. model_large_caption.pth) and the vocab.txt of bert-base-uncased"
        )
    return checkpoints[0], vocabulary


def find_lavis_python(python: Path) -> Path:
    """Find the Python of LAVIS's environment. Raises `FatalError` that says how to build it."""
    if not python.is_file():
        raise FatalError(
            f"{python}: no such file (setting: lavis_python); captioner 'lavis' needs the Python of LAVIS's "
            "environment there. Run `make lavis-env`, or set captioner to 'blip', which needs no such environment"
        )
    return python


def _ways(model: str, setting: str) -> str:
    return (
        f"Either set {setting} to a folder with config.json, model.safetensors and the tokenizer's files, "
        f"or set hub = true on a machine with network access to download {model!r} from the Hugging Face hub"
    )
