"""Looks into weights files without torch, which takes seconds to import: configuration, names and shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from models.config import NetworkConfig


class WeightsError(ValueError):
    """Raised for a file that is not a network's weights; the message names the file and what is wrong with it."""


def is_own(path: Path | str) -> bool:
    """Whether this project wrote the file, judging by its metadata."""
    try:
        with opened(Path(path)) as file:
            return "network" in (file.metadata() or {})
    except WeightsError:
        return False


def read_config(path: Path | str) -> NetworkConfig:
    """Reads the configuration in a weights file."""
    with opened(Path(path)) as file:
        return config_of(Path(path), file)


def read_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Reads the names and shapes of the tensors in a weights file, but no values."""
    with opened(Path(path)) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def opened(path: Path, framework: str = "numpy") -> Iterator[Any]:
    """Opens a weights file, with "pt" for tensors of torch. Raises `FileNotFoundError`, or `WeightsError`."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(str(path), framework=framework) as file:
            yield file
    except (SafetensorError, RuntimeError) as error:  # torch's for what can't be mapped into memory
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error


def config_of(path: Path, file: Any) -> NetworkConfig:
    """Reads the configuration in an opened weights file. Raises `WeightsError`."""
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
