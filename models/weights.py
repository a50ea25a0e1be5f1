"""Networks on disk: safetensors whose metadata hold the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.config import NetworkConfig
from models.network import Network
from models.relation_tagger import RelationTagger
from models.rlip import RLIP


class WeightsError(ValueError):
    """A file is not a network's weights; the message names the file and what is wrong with it."""


def save(network: Network, path: Path | str) -> None:
    """Writes parameters and buffers; the same values give the same bytes."""
    state = {name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}
    save_file(state, str(path), metadata={"network": json.dumps(network.config.to_dict(), sort_keys=True)})


def load(path: Path | str, tokenizer_folder: Path | str) -> Network:
    """The network that `save` wrote, an RLIP or a RelationTagger, in evaluation mode."""
    state, config = _read(Path(path))
    network = (RelationTagger if config.tagger else RLIP)(config, tokenizer_folder)
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise WeightsError(
            f"{path}: weights do not fit their own configuration; "
            f"missing {missing[:3]}, unexpected {unexpected[:3]}; save them again"
        )
    network.load_state_dict(state)
    return network.eval()


def read_config(path: Path | str) -> NetworkConfig:
    """The configuration inside a weights file."""
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], NetworkConfig]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no mapping
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    if "network" not in metadata:
        raise WeightsError(
            f"{path}: has no network configuration in its metadata, so it was not written by this "
            "project; convert official weights first"
        )
    return state, NetworkConfig.from_dict(json.loads(metadata["network"]))
