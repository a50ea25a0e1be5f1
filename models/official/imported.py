"""Imports an official checkpoint as a network of this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import ConfigError, NetworkConfig
from models.official.checkpoint import Checkpoint, read_checkpoint
from models.official.detector import from_detector, is_two_stage
from models.official.kind import Kind, kind_of
from models.official.names import from_official, official_shapes, place_of
from models.official.sizes import infer_config
from models.official.text_weights import read_text_encoder
from models.state_dict_diff import state_dict_diff
from models.weights import build, expected_shapes
from models.weights_file import WeightsError

NEW_TO_DETECTORS = (
    "bias_obj_a",
    "bias_pred_a",
    "projection_text.",
    "transformer.encoder.VLFuse_layers.",
    "transformer.encoder.roberta_layers.",
    "transformer.resizer.",
    "transformer.text_encoder.",
    "transformer.verb_query_embed.",
    "transformer.verb_tgt_generator.",
)
"""Parameters that read texts and relate objects, which no detector has."""
NEW_TO_TWO_STAGES = (*NEW_TO_DETECTORS, "transformer.reference_points_")
"""A two-stage detector has no layer that places its queries either."""


@dataclass(frozen=True)
class Imported:
    """The state of our network made from a checkpoint, and what became of every parameter."""

    kind: Kind
    config: NetworkConfig
    state: dict[str, Tensor]
    loaded: list[str]
    """Names in the checkpoint whose values are used."""
    texts: list[str]
    """Names in our network with values of a text encoder that a detector was given."""
    new: list[str]
    """Names in our network without values in the checkpoint, as expected of a detector; initialised at random."""
    left_out: list[str]
    """Names in the checkpoint that our network's forward pass does not use."""


def import_checkpoint(
    path: Path,
    args_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    text_folder: Path | None = None,
) -> Imported:
    """Imports an official checkpoint of any `Kind`; new parameters are random, the same for the same seed.

    `args_file`: see `read_checkpoint`. `overrides` are settings of NetworkConfig that neither shapes nor the training's
    settings determine, or that should differ. `text_folder`: see `read_text_encoder`; for detectors alone. Raises
    `FileNotFoundError`, or `WeightsError` with file and parameters.
    """
    return import_state(read_checkpoint(path, args_file), overrides or {}, seed, text_folder)


def import_state(
    checkpoint: Checkpoint, overrides: Mapping[str, Any], seed: int = 0, text_folder: Path | None = None
) -> Imported:
    """Same as `import_checkpoint`, for a checkpoint that is already read."""
    kind = kind_of(checkpoint.state)
    if kind is None:
        raise WeightsError(
            f"{checkpoint.path}: unsupported architecture; expected {', '.join(kind.value for kind in Kind)}; its "
            f"parameters begin with {', '.join(sorted(checkpoint.state)[:3]) or 'nothing'}"
        )
    if text_folder is not None and not kind.detector:
        raise WeightsError(f"{checkpoint.path}: a {kind.value} has a text encoder of its own; leave out --text")
    sources = {name: name for name in checkpoint.state}
    state: Mapping[str, Tensor] = checkpoint.state
    try:
        if kind.detector:
            state, sources = from_detector(checkpoint.state, kind, overrides)
        config = infer_config(
            {name: tuple(value.shape) for name, value in state.items()}, kind, checkpoint.args, overrides
        )
    except ConfigError as error:
        raise WeightsError(f"{checkpoint.path}: {error}") from error
    ours = expected_shapes(config)
    places = {name: place for name in state if (place := place_of(name, config)) is not None}
    expected = official_shapes(ours, config)
    if kind.detector:
        missing = {place.name for place in expected.keys() - set(places.values())}
        is_new = NEW_TO_TWO_STAGES if is_two_stage(checkpoint.state) else NEW_TO_DETECTORS
        new = sorted(name for name in missing if name.startswith(is_new))
        expected = {place: shape for place, shape in expected.items() if place.name not in new}
    else:
        new = []
    if wrong := state_dict_diff(
        {str(place): tuple(state[name].shape) for name, place in places.items()},
        {str(place): shape for place, shape in expected.items()},
        {str(place): sources[name] for name, place in places.items()},
    ):
        raise WeightsError(f"{checkpoint.path}: looks like {kind.value} but does not fit it; " + "; ".join(wrong))
    texts = {} if text_folder is None else read_text_encoder(text_folder, {name: ours[name] for name in new})
    new = [name for name in new if name not in texts]
    loaded = {sources[name] for name in places}
    return Imported(
        kind=kind,
        config=config,
        state=from_official(state, config) | texts | _random_values(config, seed, new),
        loaded=sorted(loaded),
        texts=sorted(texts),
        new=new,
        left_out=sorted(checkpoint.state.keys() - loaded),
    )


def _random_values(config: NetworkConfig, seed: int, names: list[str]) -> dict[str, Tensor]:
    if not names:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build(config, None).state_dict()
    return {name: state[name] for name in names}
