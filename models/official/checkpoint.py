"""Reads official checkpoint files without running any code in them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.torch_file import read_torch_file
from models.weights_file import WeightsError, is_own, opened


@dataclass(frozen=True)
class Checkpoint:
    """The `model` table of a checkpoint and the settings of its training run."""

    path: Path
    state: dict[str, Tensor]
    """Tensors by the authors' names; floating-point ones in 32 bits, all finite."""
    args: dict[str, Any]
    """Command-line settings of the training run; empty when the file has none."""


def read_checkpoint(path: Path, args_file: Path | None = None) -> Checkpoint:
    """Reads a PyTorch checkpoint or a safetensors file with official names.

    `args_file` is a JSON file with the settings of the training run, at the top level or under "args", for checkpoints
    without their own. Raises `FileNotFoundError`, or `WeightsError` that names the file and the invalid key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    state, args = _read_safetensors(path) if _is_safetensors(path) else _read_pickled(path)
    if args_file is not None:
        args = _read_args(args_file)
    return Checkpoint(path, {name: _checked(path, name, value) for name, value in state.items()}, args)


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        # A safetensors file starts with the length of its header in 8 bytes, then JSON.
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if is_own(path):
        raise WeightsError(f"{path}: already contains weights of this project, so there is nothing to import")
    with opened(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, {}  # noqa: SIM118, a file is not a mapping


def _read_pickled(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = read_torch_file(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: contains a {type(content).__name__}, not a table of parameters")
    state, args = content.get("model", content), content.get("args", {})
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path}: `model` is a {type(state).__name__}, not a table of parameters")
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    return dict(state), dict(args) if isinstance(args, Mapping) else {}


def _read_args(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no settings at {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not a readable JSON file ({error})") from error
    args = content.get("args", content) if isinstance(content, dict) else content
    if not isinstance(args, dict):
        raise WeightsError(f"{path}: not a table of settings; expected a JSON object, plain or under 'args'")
    return args


def _checked(path: Path, name: object, value: object) -> Tensor:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise WeightsError(
            f"{path}: {name!r} is a {type(value).__name__}, not a tensor; expected a table of parameters, plain or "
            "under 'model'"
        )
    if value.layout != torch.strided or value.is_quantized:
        raise WeightsError(f"{path}: {name} is sparse or quantised; only dense tensors can be read")
    # With strides of 0, a small file may claim a tensor that does not fit into memory.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise WeightsError(f"{path}: {name} claims {value.numel():,} values, more than the file has")
    if not value.is_floating_point():
        return value
    if not value.isfinite().all():
        raise WeightsError(f"{path}: {name} has NaN or infinite values; the training diverged")
    return value.float()
