"""From the authors' parameter names to ours (spec 7)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from models.config import NetworkConfig

_ALIAS = re.compile(r"transformer\.(ho|verb)_decoder\.(sub|obj)_bbox_embed\.(\d+)\.(.*)")
_BRANCH = re.compile(r"(transformer\.verb_tgt_generator\.fc_[123])\.(\d+)\.(weight|bias)")
_PREFIXES = (
    ("backbone.0.body.", "backbone.body."),
    ("transformer.ho_encoder.", "transformer.encoder."),
    ("transformer.text_encoder.", "transformer.text_encoder.roberta."),
)


def from_official(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """The state of a network of `config` with the values of an official checkpoint's `model` table.

    Box heads that the authors store under two names are taken from the top-level one when both are there. The three
    matrices of the relation queries' branches are laid side by side. Entries that take no part in the forward pass are
    left out.
    """
    renamed: dict[str, Tensor] = {}
    branches: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        alias, branch = _ALIAS.fullmatch(name), _BRANCH.fullmatch(name)
        if alias:
            stage, role, layer, rest = alias.groups()
            index = int(layer) + (config.decoder_layers if stage == "verb" else 0)
            renamed.setdefault(f"{role}_bbox_embed.{index}.{rest}", value)
        elif branch:
            layer_name, number, kind = branch.groups()
            branches.setdefault(f"{layer_name}.{kind}", {})[int(number)] = value
        else:
            renamed[_rename(name)] = value
    if config.relation_queries != "vanilla":
        for name, parts in branches.items():
            renamed[name] = _side_by_side(name, [parts[number] for number in sorted(parts)])
    if config.gate == "VXAc":
        renamed |= {name: value[:1] for name, value in renamed.items() if name.endswith(("gamma_v", "gamma_l"))}
    unused = ["transformer.text_encoder.roberta.embeddings.position_ids"] + ["query_embed.weight"] * config.tagger
    return {name: value for name, value in renamed.items() if name not in unused}


def _rename(name: str) -> str:
    for official, ours in _PREFIXES:
        if name.startswith(official):
            return ours + name.removeprefix(official)
    return name


def _side_by_side(name: str, parts: list[Tensor]) -> Tensor:
    if name.split(".")[-2] != "fc_3":
        return torch.cat(parts)
    return torch.cat(parts, dim=1) if name.endswith("weight") else torch.stack(parts).sum(0)
