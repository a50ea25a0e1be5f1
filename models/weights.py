"""Reads and writes networks as safetensors files whose metadata hold the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.config import NetworkConfig
from models.network import Network
from models.relation_tagger import RelationTagger
from models.rlip import RLIP
from models.state_dict_diff import state_dict_diff, summary


class WeightsError(ValueError):
    """Raised for a file that is not a network's weights; the message names the file and what is wrong with it."""


def build(config: NetworkConfig, tokenizer_folder: Path | str | None) -> Network:
    """Builds a new network of the configured kind; without a tokenizer it cannot encode texts."""
    return (RelationTagger if config.tagger else RLIP)(config, tokenizer_folder)


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
        if (
            storage in written
        ):  # a parameter of a detector may have several names in a network, which the format refuses
            values[name] = values[name].clone()
        written.add(storage)
    save_file(values, str(path), metadata={"network": json.dumps(config.to_dict(), sort_keys=True)})


def load(path: Path | str, tokenizer_folder: Path | str | None) -> Network:
    """Loads the network that `save` wrote, an RLIP or a RelationTagger, in evaluation mode.

    Raises `FileNotFoundError`, or `WeightsError` that names the file and what is wrong with it.
    """
    with _opened(Path(path)) as file:
        config = _config(Path(path), file)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is not a mapping
    network = build(config, tokenizer_folder)
    shapes, expected = ({name: tuple(x.shape) for name, x in s.items()} for s in (state, network.state_dict()))
    if wrong := state_dict_diff(shapes, expected, {}):
        raise WeightsError(f"{path}: weights do not fit their own configuration; {'; '.join(wrong)}; save them again")
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise WeightsError(
            f"{path}: NaN or infinite values in {summary(broken)}; the training that wrote them diverged: use an "
            "earlier checkpoint, or train again with a lower learning rate"
        )
    network.load_state_dict(state)
    return network.eval()


def is_own(path: Path | str) -> bool:
    """Whether this project wrote the file, judging by its metadata."""
    try:
        with _opened(Path(path)) as file:
            return "network" in (file.metadata() or {})
    except WeightsError:
        return False


def read_config(path: Path | str) -> NetworkConfig:
    """Reads the configuration in a weights file."""
    with _opened(Path(path)) as file:
        return _config(Path(path), file)


def read_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Reads the names and shapes of the tensors in a weights file, but no values."""
    with _opened(Path(path)) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, RuntimeError) as error:  # torch's for what can't be mapped into memory
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error


def _config(path: Path, file: Any) -> NetworkConfig:
    metadata = file.metadata() or {}
    if "network" not in metadata:
        raise WeightsError(
            f"{path}: no network configuration in the metadata, so this project did not write the file; convert "
            "official weights first, with `rlip weights import`"
        )
    try:
        values = json.loads(metadata["network"])
        if not isinstance(values, dict):
            raise ValueError(f"{str(values)[:100]} is not a table of settings")
        return NetworkConfig.from_dict(values)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: invalid network configuration: {error}") from error
