"""Reads and writes networks as safetensors files whose metadata hold the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.config import NetworkConfig
from models.network import Network
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
from models.weights_file import WeightsError, opened, read_config, read_shapes, state_dict_diff, summary


def build(config: NetworkConfig, tokenizer_folder: Path | str | None) -> Network:
    """Builds a new network of the configured kind; without a tokenizer it cannot encode texts."""
    return (RelationTagger if config.tagger else RLIP)(config, tokenizer_folder)


def expected_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the whole state of a network of `config`, without allocating memory."""
    with torch.device("meta"):
        network = build(config, None)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def save(network: Network, path: Path | str) -> None:
    """Writes parameters and buffers; equal values give identical bytes."""
    write(network.state_dict(), network.config, path)


def write(state: Mapping[str, Tensor], config: NetworkConfig, path: Path | str) -> None:
    """Same as `save`, for a network's state."""
    values: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, value in state.items():
        values[name] = value.detach().contiguous().cpu()
        storage = values[name].untyped_storage().data_ptr()
        # A parameter of a detector may have several names in a network, which the format does not allow.
        if storage in written:
            values[name] = values[name].clone()
        written.add(storage)
    save_file(values, str(path), metadata={"network": json.dumps(config.to_dict(), sort_keys=True)})


def load(path: Path | str, tokenizer_folder: Path | str | None) -> Network:
    """Loads the network that `save` wrote, an RLIP or a RelationTagger, in evaluation mode.

    Raises `FileNotFoundError`, or `WeightsError` that names the file and what is wrong with it.
    """
    config = read_config(path)
    if wrong := state_dict_diff(read_shapes(path), expected_shapes(config), {}):
        raise WeightsError(f"{path}: weights do not fit their own configuration; {'; '.join(wrong)}; save them again")
    with opened(Path(path), "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is not a mapping
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise WeightsError(
            f"{path}: NaN or infinite values in {summary(broken)}; the training run that wrote them diverged: use an "
            "earlier checkpoint, or train again with a lower learning rate"
        )
    network = build(config, tokenizer_folder)
    network.load_state_dict(state)
    return network.eval()
