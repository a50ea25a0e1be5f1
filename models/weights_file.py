"""Inspects weights files without torch, which takes seconds to import: configuration, names, shapes, differences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
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
        hint = "; convert it first, with `rlip weights import`" if path.suffix in (".pth", ".pt") else ""
        raise WeightsError(f"{path}: not a readable safetensors file ({error}){hint}") from error


def read_config(path: Path | str) -> NetworkConfig:
    """Reads the configuration in a weights file. Raises `FileNotFoundError`, or `WeightsError`."""
    with opened(Path(path)) as file:
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


Shape = tuple[int, ...]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def state_dict_diff(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], known_as: Mapping[str, str]
) -> list[str]:
    """Returns a line for each kind of mismatch: missing, unexpected, or of a different shape.

    Parameters are reported under their names in `known_as`, where it has them.
    """
    lines = []
    if missing := expected.keys() - found.keys():
        lines.append(f"missing: {summary(missing)}")
    if unexpected := found.keys() - expected.keys():
        lines.append(f"unexpected: {summary(known_as.get(name, name) for name in unexpected)}")
    mismatched: dict[tuple[Shape, Shape], list[str]] = {}
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            mismatched.setdefault((found[name], expected[name]), []).append(known_as.get(name, name))
    for (has, wants), names in mismatched.items():
        lines.append(f"shape {has}, but the network expects {wants}: {summary(names)}")
    return lines


def summary(names: Iterable[str]) -> str:
    """Joins sorted names into one line, and merges those that differ only in numbers: `layers.*.norm.weight (6)`."""
    together: dict[str, list[str]] = {}
    for name in sorted(names):
        together.setdefault(_NUMBER.sub("*", name), []).append(name)
    merged = (same[0] if len(same) == 1 else f"{pattern} ({len(same)})" for pattern, same in together.items())
    return ", ".join(merged)


def by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns sorted names by the part of the network that they belong to, e.g. backbone or transformer.encoder."""
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        first, _, rest = name.partition(".")
        part = f"{first}.{rest.partition('.')[0]}" if first == "transformer" else first
        parts.setdefault(part, []).append(name)
    return parts
