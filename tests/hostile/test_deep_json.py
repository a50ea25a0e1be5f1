"""JSON of any depth that a user may name is refused in the words of its reader, never by a RecursionError."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.official.checkpoint import read_checkpoint
from models.weights_file import WeightsError
from pipeline.captioning.model_folder import model_fault
from pipeline.detection.settings import DetectSettings
from pipeline.detection.weights_files import find_detector
from pipeline.evaluation.splits import read_positions
from pipeline.interop.label_studio import read_label_studio
from storage.errors import FatalError
from tagger.candidates.cooccurrence import read_cooccurrence
from tagger.labelling.calibration import Calibration
from tagger.matching import AuthorsFileError, read_paraphrases

DEEP = b"[" * 100_000
READERS: dict[str, tuple[str, Callable[[Path], object], type[Exception], str]] = {
    "label studio": ("tasks.json", read_label_studio, FatalError, "recursion"),
    "positions": ("rare.json", read_positions, ValueError, "recursion"),
    "paraphrases": ("paraphrases.json", read_paraphrases, AuthorsFileError, "recursion"),
    "co-occurrence": ("pairs.json", read_cooccurrence, AuthorsFileError, "recursion"),
    "calibration": (
        "calibration.json", lambda path: Calibration.from_json(path.read_bytes()), ValueError, "recursion",
    ),
    "settings beside a checkpoint": (
        "args.json", lambda path: read_checkpoint(path.with_name("model.safetensors"), path), WeightsError,
        r"args\.json: not a readable JSON file",
    ),
    "a detector's folder": (
        "config.json", lambda path: find_detector(DetectSettings(weights=str(path.parent))), FatalError,
        r"config\.json can't be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_file_is_refused_in_the_words_of_its_reader(reader, tmp_path):
    name, read, refusal, words = READERS[reader]
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    for deep in (name, "preprocessor_config.json"):
        (tmp_path / deep).write_bytes(DEEP)
    with pytest.raises(refusal, match=words):
        read(tmp_path / name)


def test_a_captioners_folder_names_the_file(root, tmp_path):
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        folder = shutil.copytree(root / "scenes" / "weights" / "captioner", tmp_path / name)
        (folder / name).write_bytes(DEEP)
        assert f"{name} can't be read" in model_fault(folder)
