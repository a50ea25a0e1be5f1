"""Maps a detector's parameters to those of an official RLIP."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from models.config import ConfigError
from models.official.kind import Kind

RELEASED_LAYERS = 3
RELEASED_PAIRS = 100

_DECODER = re.compile(r"transformer\.decoder\.(?:layers\.(\d+)|query_scale|ref_point_head)\..*")
_HEAD = re.compile(r"bbox_embed\.(\d+)\.(.*)")
_QUERIES = ("query_embed.weight", "refpoint_embed.weight", "tgt_embed.weight")
_LEFT_OUT = (
    "class_embed.",
    "transformer.decoder.bbox_embed.",
    "transformer.decoder.class_embed.",
    "transformer.enc_output",
    "transformer.pos_trans",
)
"""In RLIP, classes are texts, and the encoder proposes no boxes as that of a two-stage detector does. The decoder's own box
heads duplicate the top-level ones."""
_ADDED = (
    "obj_bbox_embed.",
    "obj_class_embed.",
    "sub_bbox_embed.",
    "transformer.ho_decoder.",
    "transformer.ho_encoder.",
    "transformer.reference_points_",
    "transformer.verb_decoder.",
    "verb_tgt_embed.",
)
"""What the authors' `convert_parameters_*.py` add to a detector, whose own parameters stay beside it. All are copies."""


def from_detector(
    state: Mapping[str, Tensor], kind: Kind, overrides: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns official RLIP parameters made from a detector's, and the detector's name that each comes from.

    The first layers of the decoder become both decoders, the box heads become the subjects' and the objects', and the
    first queries become queries of subjects, then of objects. `overrides` may set `decoder_layers` and
    `pairs` to other numbers than the released ones. A detector that went through the authors' converter gives the same.
    """
    layers = _setting(overrides, "decoder_layers", RELEASED_LAYERS)
    rows = 2 * _setting(overrides, "pairs", RELEASED_PAIRS)
    made: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    is_converted = any(name.startswith("transformer.ho_decoder.") for name in state)
    for name, value in state.items():
        if is_converted and name.startswith(_ADDED):
            continue
        if name in _QUERIES and value.dim() != 2:
            raise ConfigError(f"the parameter {name} has shape {tuple(value.shape)}; expected one row per query")
        for target in _targets(name, kind, layers):
            made[target] = value[:rows] if name in _QUERIES else value
            sources[target] = name
    if "query_embed.weight" in made and not is_converted:
        table = made["query_embed.weight"]
        # The queries of a two-stage detector have content alone, which the authors take for positions, too.
        position, content = (table, table) if is_two_stage(state) else table.chunk(2, dim=1)
        made["query_embed.weight"] = torch.cat((position, content, content), dim=1)
    return made, sources


def is_two_stage(names: Collection[str]) -> bool:
    """Whether a detector's queries start from boxes that its encoder proposes, so that it has no layer to place them."""
    return "transformer.enc_output.weight" in names


def _setting(overrides: Mapping[str, Any], name: str, released: int) -> int:
    number = overrides.get(name, released)
    if type(number) is not int or number < 1:
        raise ConfigError(f"network setting {name}={number!r}: must be a whole number of at least 1")
    return number


def _targets(name: str, kind: Kind, decoder_layers: int) -> list[str]:
    """Returns the names in RLIP that a detector's parameter is copied to."""
    if name.startswith(_LEFT_OUT):
        return []
    if decoder := _DECODER.fullmatch(name):
        if decoder[1] is not None and int(decoder[1]) >= decoder_layers:
            return []
        return [name.replace(".decoder.", f".{stage}_decoder.") for stage in ("ho", "verb")]
    if head := _HEAD.fullmatch(name):
        # Later heads of the detector refine boxes in the relation decoder.
        used = int(head[1]) < 2 * decoder_layers
        return [f"{role}_bbox_embed.{head[1]}.{head[2]}" for role in ("sub", "obj")] if used else []
    if name.startswith("transformer.reference_points."):
        return [name.replace("points.", f"points_{role}.") for role in ("sub", "obj")]
    if name.startswith("transformer.encoder.") and not kind.anchored:
        return [name.replace(".encoder.", ".ho_encoder.")]
    return [name, "verb_tgt_embed.weight"] if name == "tgt_embed.weight" else [name]
