"""Finds the files of a detector, and determines its kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from models.weights_file import WeightsError, is_own, read_config
from pipeline.data.hub import hub_folder
from pipeline.detection.settings import DetectSettings
from pipeline.training.config import MODEL, VOCABULARY
from pipeline.training.vocabulary import is_tokenizer, tokenizer_files, tokenizer_of
from storage.errors import FatalError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WITH_TOKENIZER = "processor_config.json"
"""Has the settings of `PROCESSOR` in folders where transformers 5 saved it together with a tokenizer. If a folder has
both files, transformers reads these settings."""
NAMES_SUFFIX, PIPELINE = ".names", "pipeline.json"
"""Next to an ONNX file: its class names, and mmdeploy's input description. A third, FILE.data: weights beyond 2 GB."""
_WAYS = (
    f"Either set detect.weights to a folder with {CONFIG}, {PROCESSOR} and model.safetensors, to a .safetensors file "
    "of this project, a .pth file of torchvision or an .onnx file, or set detect.hub = true on a machine with network "
    "access"
)
WITHOUT_EPSILON = tuple(f"{kind}_resnet50_fpn_coco" for kind in ("fasterrcnn", "maskrcnn", "retinanet"))
"""How torchvision's files begin whose networks have norms that add nothing to the variance, as in their training."""
ZERO_SHOT = frozenset({"grounding-dino", "mm-grounding-dino", "owlvit", "owlv2"})
"""Model types of detectors that look for any names, and so come with a tokenizer."""


@dataclass(frozen=True)
class DetectorFiles:
    """The files that decide what a detector finds."""

    kind: str
    """The detector's registered name: transformers, zero_shot, torchvision, onnx, own, recorded or another."""
    place: Path
    """The folder of a transformers model, of fixed or any names; else the weights file, or that of recorded boxes."""
    files: dict[str, Path]
    """Every file that is read, by name."""


def find_detector(settings: DetectSettings) -> DetectorFiles:
    """Finds the detector of the settings; downloads it only with `hub`. Raises `FatalError` if files are missing."""
    assert settings.weights is not None  # the recipe requires it where the stage runs
    path = Path(settings.weights)
    if settings.detector is not None:
        if not path.exists():
            raise FatalError(
                f"detect.weights = {path}: no such file or folder; name what detector {settings.detector!r} loads"
            )
        return DetectorFiles(settings.detector, path, {path.name: path})
    if path.suffix in (".pth", ".onnx", ".json") and not path.is_file():
        raise FatalError(
            f"detect.weights = {path}: no such file; name torchvision's weights, an ONNX file or recorded boxes"
        )
    if path.suffix == ".pth":
        return DetectorFiles("torchvision", path, {path.name: path})
    if path.suffix == ".onnx":
        beside = (path.with_suffix(NAMES_SUFFIX), path.with_name(PIPELINE), path.with_name(f"{path.name}.data"))
        return DetectorFiles("onnx", path, {each.name: each for each in (path, *beside) if each.is_file()})
    if path.suffix == ".safetensors" or (path.is_dir() and not _is_transformers(path)):
        return _own(path, settings)
    if path.suffix == ".json":
        return DetectorFiles("recorded", path, {"boxes": path})
    if path.is_file():
        raise FatalError(
            f"detect.weights = {path}: is not a detector; expected .safetensors of this project, .pth of torchvision, "
            ".onnx, or .json with recorded boxes. For a transformers model, name its folder"
        )
    return _transformers(path if path.is_dir() else hub_folder(settings.weights, settings.hub, "detect.weights", _WAYS))


def _is_transformers(folder: Path) -> bool:
    """Whether a folder holds a model of transformers. A tokenizer of this project's weights may have config.json."""
    if not (folder / CONFIG).is_file():
        return False
    return not ((folder / MODEL).is_file() and is_own(folder / MODEL))


def _own(path: Path, settings: DetectSettings) -> DetectorFiles:
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise FatalError(
            f"detect.weights = {path}: no file {file}; name a .safetensors file of this project, or a folder with "
            f"{CONFIG} and model.safetensors that transformers loads"
        )
    try:
        read_config(file)
    except WeightsError as error:
        raise FatalError(
            f"detect.weights = {error}; for another project's model, name the folder with its {CONFIG}"
        ) from error
    files = {MODEL: file}
    if (vocabulary := file.parent / VOCABULARY).is_file():
        files[VOCABULARY] = vocabulary
    files |= tokenizer_of(file, settings.tokenizer, f"detect.weights = {file}", "detect.tokenizer")
    return DetectorFiles("own", file, files)


def _transformers(folder: Path) -> DetectorFiles:
    weights = sorted(folder.glob("model*.safetensors"))
    processors = [name for name in (PROCESSOR, WITH_TOKENIZER) if (folder / name).is_file()] or [PROCESSOR]
    lacking = [name for name in (CONFIG, *processors) if not (folder / name).is_file()]
    lacking += [] if weights else ["model.safetensors"]
    if lacking == ["model.safetensors"] and any(folder.glob("pytorch_model*.bin")):
        raise FatalError(
            f"detector {folder}: its weights are pytorch_model.bin, a pickle, which can run code and is never read "
            "(setting: detect.weights); save the model as model.safetensors where you trust it, or take "
            "the hub's revision that has one"
        )
    if lacking:
        raise FatalError(
            f"detector {folder}: lacks {', '.join(lacking)} (setting: detect.weights); copy the folder again"
        )
    try:
        is_zero_shot = json.loads((folder / CONFIG).read_bytes())["model_type"] in ZERO_SHOT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FatalError(f"detector {folder}: {CONFIG} can't be read ({error!r}); copy the folder again") from error
    read = [*(folder / name for name in (CONFIG, *processors)), *weights, *folder.glob("model*.safetensors.index.json")]
    files = {path.name: path for path in read}
    if not is_zero_shot:
        return DetectorFiles("transformers", folder, files)
    if not is_tokenizer(tokenizer := tokenizer_files(folder)):
        raise FatalError(f"detector {folder}: lacks its tokenizer (setting: detect.weights); copy the folder again")
    return DetectorFiles("zero_shot", folder, files | tokenizer)
