"""Reads a text encoder as the Hugging Face hub has it, for networks that are made from a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.state_dict_diff import summary
from models.weights_file import WeightsError

FILE = "model.safetensors"
OURS = "transformer.text_encoder.roberta."
THEIRS = ("", "roberta.")
"""What names begin with in files of the encoder alone, and of a model that predicts words."""


def read_text_encoder(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Returns the parameters of the text encoder, by our names, of which `shapes` has all that the network needs.

    Raises `FileNotFoundError`, or `WeightsError` that names the parameters which are missing or have another shape.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {FILE} in {folder}; the hub has it under FacebookAI/roberta-base")
    wanted = {name: name.removeprefix(OURS) for name in shapes if name.startswith(OURS)}
    try:
        with safe_open(str(path), framework="pt") as file:
            names = set(file.keys())
            places = {
                ours: next((f"{prefix}{name}" for prefix in THEIRS if f"{prefix}{name}" in names), None)
                for ours, name in wanted.items()
            }
            found = {ours: file.get_tensor(name).float() for ours, name in places.items() if name is not None}
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    if missing := [wanted[name] for name in wanted if name not in found]:
        raise WeightsError(f"{path}: lacks {summary(missing)}; name the folder of a RoBERTa with a pooled output")
    if wrong := [wanted[name] for name in found if tuple(found[name].shape) != shapes[name]]:
        raise WeightsError(
            f"{path}: other sizes than the network in {summary(wrong)}; set them, e.g. --set text.hidden=1024"
        )
    return found
