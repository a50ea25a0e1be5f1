"""Maps our parameter names to the authors', and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import NetworkConfig

_HEAD = re.compile(r"(sub|obj)_bbox_embed\.(\d+)\.(.*)")
_WINDOW_MERGE = re.compile(r"backbone\.body\.layers_(\d+)\.downsample\.(.*)")
_OUTPUT_NORM = re.compile(r"backbone\.norms\.(\d+)\.(.*)")
_BRANCHES = "transformer.verb_tgt_generator."
_PREFIXES = (
    ("backbone.0.body.layers.", "backbone.body.layers_"),
    ("backbone.0.body.", "backbone.body."),
    ("transformer.ho_encoder.", "transformer.encoder."),
    ("transformer.text_encoder.", "transformer.text_encoder.roberta."),
)
_DERIVED = ("position_ids", "relative_position_index", "attn_mask", "num_batches_tracked")
"""Buffers that follow from sizes alone, or that only count."""


@dataclass(frozen=True)
class Place:
    """Where the value of an official parameter lives in our network."""

    name: str
    branch: int | None = None
    """Index of the relation queries' branch; the matrices of all branches lie side by side in ours."""

    def __str__(self) -> str:
        if self.branch is None:
            return self.name
        layer_name, _, kind = self.name.rpartition(".")
        return f"{layer_name}.{self.branch}.{kind}"


def places(ours: Iterable[str], config: NetworkConfig) -> dict[str, Place]:
    """Returns the authors' names of the parameters of a network of `config` and their places; box heads have two."""
    found: dict[str, Place] = {}
    for name in ours:
        if name.rpartition(".")[2] in _DERIVED:
            continue
        if name.startswith(_BRANCHES):
            found |= {str(place): place for place in (Place(name, each) for each in range(config.relation_branches))}
            continue
        found[_official_name(name, config)] = Place(name)
        if head := _HEAD.fullmatch(name):
            decoder, index = divmod(int(head[2]), config.decoder_layers)
            stage = ("ho", "verb")[decoder]
            found[f"transformer.{stage}_decoder.{head[1]}_bbox_embed.{index}.{head[3]}"] = Place(name)
    return found


def is_unused(official: str, config: NetworkConfig) -> bool:
    """Whether the authors store a parameter of this name that the forward pass of a network of `config` never reads."""
    kind = official.rpartition(".")[2]
    if kind in _DERIVED or (config.tagger and official == "query_embed.weight"):
        return True
    if config.gate == "none" and kind in ("gamma_v", "gamma_l"):
        return True
    if config.relation_queries == "vanilla" and official.startswith(_BRANCHES):
        return True
    if not (head := _HEAD.search(official)):
        return False
    # We keep heads of the relation decoder, which no loss reaches, only to reproduce the authors' numbers.
    read = config.decoder_layers * (2 if config.official_compat else 1)
    before = config.decoder_layers if official.startswith("transformer.verb_decoder.") else 0
    return before + int(head[2]) >= read


def from_official(state: Mapping[str, Tensor], known: Mapping[str, Place], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns the state of a network of `config` with the values of an official checkpoint's `model` table.

    `known`: the `places` of its parameters. Where the two names of a box head have different values, as in converted
    detectors, the top-level one wins, because it is loaded last.
    """
    placed: dict[str, Tensor] = {}
    branches: dict[str, list[Tensor]] = {}
    for official, place in known.items():
        if official not in state:
            continue
        value = state[official]
        if place.branch is not None:
            branches.setdefault(place.name, []).append(value)
        else:  # a head's top-level name comes first
            placed.setdefault(place.name, value[:1] if _is_scalar_gate(place.name, config) else value)
    return placed | {name: _side_by_side(name, parts) for name, parts in branches.items()}


def to_official(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns the authors' names of a state with the names of ours; `from_official` gives the same state back.

    Box heads get both of their names. A gate of one number fills its whole vector, of which the authors read the first
    entry. The first branch of the relation queries has the bias that all of them share; that of the others is 0.
    """
    official: dict[str, Tensor] = {}
    for theirs, place in places(state, config).items():
        value = share_of(place, state[place.name], config.relation_branches)
        if place.branch and place.name.endswith("fc_3.bias"):
            value = torch.zeros_like(value)
        elif _is_scalar_gate(place.name, config):
            value = value.expand(config.width if place.name.endswith("gamma_v") else config.text.hidden)
        official[theirs] = value
    return official


def share_of(place: Place, whole: Tensor, branches: int) -> Tensor:
    """Returns the part of our tensor, or of its gradient, that corresponds to the official parameter of this place."""
    if place.branch is None or place.name.endswith("fc_3.bias"):
        return whole
    return whole.chunk(branches, dim=1 if place.name.endswith("fc_3.weight") else 0)[place.branch]


def _is_scalar_gate(name: str, config: NetworkConfig) -> bool:
    """Whether the authors store one number per channel but use only the first."""
    return config.gate == "VXAc" and name.endswith((".gamma_v", ".gamma_l"))


def _official_name(name: str, config: NetworkConfig) -> str:
    """Returns the authors' name of a parameter that they store whole."""
    if merge := _WINDOW_MERGE.fullmatch(name):
        # The authors merge windows at the end of a stage, timm at the beginning of the next.
        return f"backbone.0.body.layers.{int(merge[1]) - 1}.downsample.{merge[2]}"
    if norm := _OUTPUT_NORM.fullmatch(name):
        # The authors number output norms by stage; our 0 is the first used, the second stage.
        return f"backbone.0.body.norm{int(norm[1]) + 1}.{norm[2]}"
    for theirs, ours in _PREFIXES:
        # ParSeDA's encoder has one name in both.
        if name.startswith(ours) and not (config.architecture == "parseda" and ours == "transformer.encoder."):
            return theirs + name.removeprefix(ours)
    return name


def _side_by_side(name: str, parts: list[Tensor]) -> Tensor:
    if name.split(".")[-2] != "fc_3":
        return torch.cat(parts)
    return torch.cat(parts, dim=1) if name.endswith("weight") else torch.stack(parts).sum(0)
