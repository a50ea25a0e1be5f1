"""Exports a network of this project as a checkpoint of the authors' code, the inverse of `imported`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.config import NetworkConfig
from models.official.names import to_official
from models.official.options import official_options, refuse_unknown


def export_checkpoint(network_state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns the state of a network of `config` by the authors' names, complete, so that their code loads it strictly.

    Importing it gives the same state. Without `official_compat`, what their network has and ours lacks is added:
    box heads of zeros for the relation decoder, an equal embedding for each slot of the tagger, and the layers from
    which its boxes start. What their forward pass does not use is 0. Raises `ConfigError` that names a setting which
    no network of theirs can have; `options.differences` tells what else their code does differently.
    """
    refuse_unknown(config)
    complete = {**network_state, **_unused(network_state, config)}
    if not config.official_compat:
        complete |= _added(network_state, config)
    official = to_official(complete, config)
    if config.tagger:
        official["query_embed.weight"] = _zeros(network_state, 2 * config.pairs, 3 * config.width)
    official |= _indices(official)
    return {name: value.detach().cpu().contiguous() for name, value in official.items()}


def write_checkpoint(state: Mapping[str, Tensor], config: NetworkConfig, path: Path | str) -> None:
    """Writes what `export_checkpoint` returned as the authors' training does, with tensors and plain values only.

    The file has their keys `model`, `args` and `epoch` (0), and can be read with `torch.load(weights_only=True)`.
    """
    content = {"model": dict(state), "args": official_options(config), "epoch": 0}
    # Given a path, torch would write its name into the file.
    with Path(path).open("wb") as file:
        torch.save(content, file)


def _unused(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns parameters that the authors' network has without using them, by our names."""
    unused: dict[str, Tensor] = {}
    if config.architecture == "parseda" and config.relation_queries == "vanilla":
        for layer in ("fc_1", "fc_2", "fc_3"):
            unused[f"transformer.verb_tgt_generator.{layer}.weight"] = _zeros(state, config.width, config.width)
            unused[f"transformer.verb_tgt_generator.{layer}.bias"] = _zeros(state, config.width)
    if config.gate == "none":
        # Ones, with which every gate computes what no gate does.
        for fusion in range(config.decoder_layers):
            prefix = f"transformer.encoder.VLFuse_layers.{fusion}.b_attn"
            unused[f"{prefix}.gamma_v"] = 1 + _zeros(state, config.width)
            unused[f"{prefix}.gamma_l"] = 1 + _zeros(state, config.text.hidden)
    return unused


def _indices(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the buffers of indices that the authors' text encoder and window attention keep beside their tables."""
    embeddings, table = "transformer.text_encoder.embeddings", "relative_position_bias_table"
    indices: dict[str, Tensor] = {}
    if (positions := official.get(f"{embeddings}.position_embeddings.weight")) is not None:
        indices[f"{embeddings}.position_ids"] = torch.arange(len(positions))[None]
    for name in (name for name in official if name.endswith(table)):
        side = (math.isqrt(len(official[name])) + 1) // 2
        indices[name.replace(table, "relative_position_index")] = _window_index(side)
    return indices


def _window_index(side: int) -> Tensor:
    """Returns the row of the bias table for each pair of places in a window of `side` × `side` places."""
    row_S, column_S = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    down_SS, right_SS = (place[:, None] - place[None] + side - 1 for place in (row_S, column_S))
    return down_SS * (2 * side - 1) + right_SS


def _added(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns the parameters that a network has only with `official_compat`, or has more of, by our names."""
    added: dict[str, Tensor] = {}
    for role in ("sub", "obj"):
        for name in [name for name in state if name.startswith(f"{role}_bbox_embed.0.")]:
            for layer in range(config.decoder_layers, 2 * config.decoder_layers):
                added[name.replace(".0.", f".{layer}.", 1)] = torch.zeros_like(state[name])
    if not config.tagger:
        return added
    for name in ("transformer.verb_tgt.weight", "transformer.verb_query_embed.weight"):
        if name in state:
            added[name] = state[name].repeat_interleave(config.pairs, dim=0)
    weight, bias = _centre_of_box(state["transformer.coord_proj.weight"], state["transformer.coord_proj.bias"])
    for role in ("sub", "obj"):
        added[f"transformer.reference_points_{role}.weight"] = weight
        added[f"transformer.reference_points_{role}.bias"] = bias
    return added


def _centre_of_box(weight_D4: Tensor, bias_D: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight 2×D and bias of the layer that finds the centre of the box from which a linear layer made D values."""
    inverse_2D = torch.linalg.pinv(weight_D4.double())[:2]
    return inverse_2D.to(weight_D4.dtype), (-inverse_2D @ bias_D.double()).to(bias_D.dtype)


def _zeros(state: Mapping[str, Tensor], *shape: int) -> Tensor:
    return state["bias_obj_a"].new_zeros(shape)
