"""Maps the authors' parameter names to ours, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import NetworkConfig

_ALIAS = re.compile(r"transformer\.(ho|verb)_decoder\.(sub|obj)_bbox_embed\.(\d+)\.(.*)")
_HEAD = re.compile(r"(?:sub|obj)_bbox_embed\.(\d+)\..*")
_BRANCH = re.compile(r"(transformer\.verb_tgt_generator\.fc_[123])\.(\d+)\.(weight|bias)")
_WINDOW_MERGE = re.compile(r"backbone\.0\.body\.layers\.(\d+)\.downsample\.(.*)")
_OUR_WINDOW_MERGE = re.compile(r"backbone\.body\.layers_(\d+)\.downsample\.(.*)")
_OUR_OUTPUT_NORM = re.compile(r"backbone\.norms\.(\d+)\.(.*)")
_PREFIXES = (
    ("backbone.0.body.layers.", "backbone.body.layers_"),
    ("backbone.0.body.norm", "backbone.norms."),
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


def place_of(official: str, config: NetworkConfig) -> Place | None:
    """Returns the place of an official name; None if the forward pass of a network of `config` does not use it.

    Box heads that the authors store under two names have one place.
    """
    if official.rpartition(".")[2] in _DERIVED or (config.tagger and official == "query_embed.weight"):
        return None
    if config.gate == "none" and official.endswith((".gamma_v", ".gamma_l")):
        return None
    if alias := _ALIAS.fullmatch(official):
        stage, role, layer, rest = alias.groups()
        index = int(layer) + (config.decoder_layers if stage == "verb" else 0)
        return place_of(f"{role}_bbox_embed.{index}.{rest}", config)
    if head := _HEAD.fullmatch(official):
        # We keep heads of the relation decoder, which no loss reaches, only to reproduce the authors' numbers.
        used = config.decoder_layers * (2 if config.official_compat else 1)
        return Place(official) if int(head[1]) < used else None
    if branch := _BRANCH.fullmatch(official):
        layer_name, number, kind = branch.groups()
        return None if config.relation_queries == "vanilla" else Place(f"{layer_name}.{kind}", int(number))
    if merge := _WINDOW_MERGE.fullmatch(official):
        # The authors merge windows at the end of a stage, timm at the beginning of the next.
        return Place(f"backbone.body.layers_{int(merge[1]) + 1}.downsample.{merge[2]}")
    for theirs, ours in _PREFIXES:
        if official.startswith(theirs):
            return Place(_with_norm_index(ours + official.removeprefix(theirs)))
    return Place(official)


def from_official(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns the state of a network of `config` with the values of an official checkpoint's `model` table.

    Where the two names of a box head have different values, as in converted detectors, the top-level one wins, because
    it is loaded last.
    """
    placed: dict[str, Tensor] = {}
    branches: dict[str, dict[int, Tensor]] = {}
    for official in sorted(state, key=lambda name: _ALIAS.fullmatch(name) is None):
        place, value = place_of(official, config), state[official]
        if place is None:
            continue
        if place.branch is not None:
            branches.setdefault(place.name, {})[place.branch] = value
        elif _is_scalar_gate(place.name, config):
            placed[place.name] = value[:1]
        else:
            placed[place.name] = value
    for name, parts in branches.items():
        placed[name] = _side_by_side(name, [parts[number] for number in sorted(parts)])
    return placed


def to_official(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns the authors' names of a state with the names of ours; `from_official` gives the same state back.

    Box heads get both of their names. A gate of one number fills its whole vector, of which the authors read the first
    entry. The first branch of the relation queries has the bias that all of them share; that of the others is 0.
    """
    official: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.rpartition(".")[2] in _DERIVED:
            continue
        if name.startswith("transformer.verb_tgt_generator."):
            for branch in range(config.relation_branches):
                place = Place(name, branch)
                share = share_of(place, value, config.relation_branches)
                official[str(place)] = torch.zeros_like(share) if name.endswith("fc_3.bias") and branch else share
            continue
        if _is_scalar_gate(name, config):
            value = value.expand(config.width if name.endswith("gamma_v") else config.text.hidden)
        official[_official_name(name, config)] = value
        if head := _HEAD.fullmatch(name):
            role, index = name.partition("_")[0], int(head[1])
            stage = "ho" if index < config.decoder_layers else "verb"
            rest = name.split(".", 2)[2]
            official[f"transformer.{stage}_decoder.{role}_bbox_embed.{index % config.decoder_layers}.{rest}"] = value
    return official


def official_shapes(ours: Mapping[str, tuple[int, ...]], config: NetworkConfig) -> dict[Place, tuple[int, ...]]:
    """Returns the places in our network, with the shapes that official parameters there must have."""
    shapes: dict[Place, tuple[int, ...]] = {}
    for name, shape in ours.items():
        if name.startswith("transformer.verb_tgt_generator."):
            whole = torch.empty(shape, device="meta")
            for branch in range(config.relation_branches):
                place = Place(name, branch)
                shapes[place] = tuple(share_of(place, whole, config.relation_branches).shape)
        elif _is_scalar_gate(name, config):
            shapes[Place(name)] = (config.width if name.endswith("gamma_v") else config.text.hidden,)
        else:
            shapes[Place(name)] = shape
    return shapes


def share_of(place: Place, whole: Tensor, branches: int) -> Tensor:
    """Returns the part of our tensor, or of its gradient, that corresponds to the official parameter of this place."""
    if place.branch is None or place.name.endswith("fc_3.bias"):
        return whole
    return whole.chunk(branches, dim=1 if place.name.endswith("fc_3.weight") else 0)[place.branch]


def _is_scalar_gate(name: str, config: NetworkConfig) -> bool:
    """Whether the authors store one number per channel but use only the first."""
    return config.gate == "VXAc" and name.endswith((".gamma_v", ".gamma_l"))


def _official_name(name: str, config: NetworkConfig) -> str:
    """Inverts `place_of` for a parameter that the authors store whole."""
    if merge := _OUR_WINDOW_MERGE.fullmatch(name):
        return f"backbone.0.body.layers.{int(merge[1]) - 1}.downsample.{merge[2]}"
    if norm := _OUR_OUTPUT_NORM.fullmatch(name):
        return f"backbone.0.body.norm{int(norm[1]) + 1}.{norm[2]}"
    for theirs, ours in _PREFIXES:
        # ParSeDA's encoder has one name in both.
        if name.startswith(ours) and not (config.architecture == "parseda" and ours == "transformer.encoder."):
            return theirs + name.removeprefix(ours)
    return name


def _with_norm_index(name: str) -> str:
    """Renumbers output norms of window transformers: the authors' 1 (the second stage) is our 0 (the first used)."""
    if not name.startswith("backbone.norms."):
        return name
    number, _, rest = name.removeprefix("backbone.norms.").partition(".")
    return f"backbone.norms.{int(number) - 1}.{rest}"


def _side_by_side(name: str, parts: list[Tensor]) -> Tensor:
    if name.split(".")[-2] != "fc_3":
        return torch.cat(parts)
    return torch.cat(parts, dim=1) if name.endswith("weight") else torch.stack(parts).sum(0)
