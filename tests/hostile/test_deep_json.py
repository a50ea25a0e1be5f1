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
READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "label studio": (read_label_studio, FatalError), "positions": (read_positions, ValueError),
    "paraphrases": (read_paraphrases, AuthorsFileError), "co-occurrence": (read_cooccurrence, AuthorsFileError),
    "calibration": (lambda path: Calibration.from_json(path.read_bytes()), ValueError),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_file_is_refused_in_the_words_of_its_reader(reader, tmp_path):
    path = tmp_path / "deep.json"
    path.write_bytes(DEEP)
    read, refusal = READERS[reader]
    with pytest.raises(refusal, match="recursion"):
        read(path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_captioners_folder_names_the_file(name, root, tmp_path):
    folder = shutil.copytree(root / "scenes" / "weights" / "captioner", tmp_path / "captioner")
    assert model_fault(folder) == ""
    (folder / name).write_bytes(DEEP)
    assert f"{name} can't be read" in model_fault(folder)


def test_the_settings_beside_a_checkpoint_name_the_file(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "args.json").write_bytes(DEEP)
    with pytest.raises(WeightsError, match=r"args\.json: not a readable JSON file"):
        read_checkpoint(tmp_path / "model.safetensors", tmp_path / "args.json")


def test_a_detectors_folder_names_the_file(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes(DEEP)
    with pytest.raises(FatalError, match=r"config\.json can't be read"):
        find_detector(DetectSettings(weights=str(tmp_path)))
