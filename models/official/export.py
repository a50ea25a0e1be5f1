"""Exports a network of this project as a checkpoint of the authors' code, with its options: the inverse of `imported`.

`differences` says what their code cannot do or does differently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.swin_transformer import get_relative_position_index
from torch import Tensor

from models.backbone import is_window_transformer
from models.config import ConfigError, NetworkConfig, TextConfig
from models.official.names import to_official
from models.official.sizes import GATES, ONLY

_RESNET = re.compile(r"resnet(?:50|101|152)|resnet_w[\d_]+")
_SWIN = re.compile(r"swin_(tiny|small|base|large)_patch4_window(?:7_224|(12)_384)")
_RELEASED_BACKBONES = ("resnet50", "swin_tiny", "swin_large")
_CONSTANTS = {"fusion_width": 2048, "fusion_heads": 8, "relation_branches": 16}
_TEXT_SIZES = ("hidden", "layers", "heads", "feedforward", "vocabulary", "max_positions")
"""Sizes that the authors' code takes from roberta-base."""


def official_options(config: NetworkConfig) -> dict[str, Any]:
    """Returns the command-line options of the authors' code that build a network of `config`.

    Options of data, losses and training are not among them. Raises `ConfigError` naming a setting their code lacks.
    """
    refuse_unknown(config)
    anchored = config.architecture == "parseda"
    return {
        "RLIP_ParSeDA_v2": anchored,
        "RLIP_ParSeD_v2": not anchored,
        "verb_tagger": config.tagger,
        "cross_modal_pretrain": True,
        "text_encoder_type": "roberta-base",
        "backbone": _official_backbone(config.backbone),
        "drop_path_rate": config.backbone_drop_path,
        "position_embedding": "sine",
        "num_feature_levels": config.levels,
        "hidden_dim": config.width,
        "nheads": config.heads,
        "enc_n_points": config.points,
        "dec_n_points": config.points,
        "enc_layers": config.encoder_layers,
        "dec_layers": config.decoder_layers,
        "dim_feedforward": config.feedforward,
        "num_queries": 2 * config.pairs,
        "dropout": config.dropout,
        "with_box_refine": True,
        "aux_loss": True,
        "fusion_interval": config.fusion_interval,
        "gating_mechanism": next(theirs for theirs, ours in GATES.items() if ours == config.gate),
        "verb_query_tgt_type": config.relation_queries,
        **ONLY,
    }


def refuse_unknown(config: NetworkConfig) -> None:
    """Raises `ConfigError` for the first setting that no network of the authors' code can have."""
    windows = is_window_transformer(config.backbone)
    if not (_SWIN if windows else _RESNET).fullmatch(config.backbone):
        _refuse(config, "backbone", "their code has bottleneck ResNets and Swin transformers (version 1) only")
    if config.backbone_norm == "group" and not windows:
        _refuse(config, "backbone_norm", "their ResNets have frozen batch norms, which cannot stand for group norms")
    if config.backbone_strides != ((8, 16, 32) if config.levels > 1 else (32,)):
        _refuse(config, "backbone_strides", "their code reads strides 8, 16 and 32, or only 32 with a single level")
    if config.fusion != "alif":
        _refuse(config, "fusion", "in their RLIPv2 code, the encoder fuses texts and image (alif)")
    if config.encoder_layers != config.decoder_layers * config.fusion_interval:
        _refuse(
            config,
            "fusion_interval",
            f"their code needs as many fusions as decoder_layers={config.decoder_layers}, but "
            f"encoder_layers={config.encoder_layers} gives {-(-config.encoder_layers // config.fusion_interval)}",
        )
    if config.text.kind != "roberta":
        raise ConfigError(f"network setting text.kind={config.text.kind!r}: their code reads texts with roberta only")


def differences(config: NetworkConfig) -> list[str]:
    """Returns a sentence for each thing to know before the authors' code computes with weights of `config`."""
    notes = []
    constants = {name: (getattr(config, name), there) for name, there in _CONSTANTS.items()}
    constants |= {f"text.{name}": (getattr(config.text, name), getattr(TextConfig(), name)) for name in _TEXT_SIZES}
    if unlike := [f"{name}={here} ({there} there)" for name, (here, there) in constants.items() if here != there]:
        notes.append(
            f"Constants of their code differ: {', '.join(unlike)}. Change them there first: their code loads what fits "
            "and leaves the rest at random."
        )
    if _official_backbone(config.backbone) not in _RELEASED_BACKBONES:
        notes.append(f"backbone={config.backbone}: none of their released networks has it; check that their code does.")
    if config.backbone_norm == "batch" and not is_window_transformer(config.backbone):
        notes.append("backbone_norm=batch: their norms keep the statistics of this file when trained further.")
    return notes if config.official_compat else notes + _of_our_own(config)


def _of_our_own(config: NetworkConfig) -> list[str]:
    """Returns the differences of networks without `official_compat`, those of docs/networks.md."""
    notes = [
        "official_compat=False: their convolutions and fusion read padding, so scores differ unless the images of a "
        "batch have one size.",
        "The relation decoder gets box heads of zeros, which leave boxes where they are, as here.",
        "Trained further there, texts whose features sum to no more than 0 are hidden, and losses have other divisors.",
    ]
    if is_window_transformer(config.backbone):
        notes.append(
            "Their positions after Swin count from cells' centres and not from their ends, so scores differ; fine-tune "
            "there before use."
        )
    if config.tagger:
        notes.append(
            "Their tagger has an embedding per slot: each gets a copy of the one that all slots share here. Its boxes "
            "start from a point and not from the given box: the layer that predicts it is made to give the box's "
            "centre, but width and height are lost, so scores differ; fine-tune there before use."
        )
    return notes


def _official_backbone(name: str) -> str:
    if swin := _SWIN.fullmatch(name):
        return f"swin_{swin[1]}_384" if swin[2] else f"swin_{swin[1]}"
    return name


def _refuse(config: NetworkConfig, name: str, why: str) -> None:
    raise ConfigError(f"network setting {name}={getattr(config, name)!r}: {why}, so it cannot be exported")


def export_checkpoint(network_state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """Returns the state of a network of `config` by the authors' names, complete, so that their code loads it strictly.

    Importing it gives the same state. Without `official_compat`, what their network has and ours lacks is added:
    box heads of zeros for the relation decoder, an equal embedding for each slot of the tagger, and the layers from
    which its boxes start. What their forward pass does not use is 0. Raises `ConfigError` that names a setting which
    no network of theirs can have; `differences` lists what else their code does differently.
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
        indices[name.replace(table, "relative_position_index")] = get_relative_position_index(side, side)
    return indices


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
    """Returns weight 2×D and bias of a layer finding the centre of the box from which a linear layer made D values."""
    inverse_2D = torch.linalg.pinv(weight_D4.double())[:2]
    return inverse_2D.to(weight_D4.dtype), (-inverse_2D @ bias_D.double()).to(bias_D.dtype)


def _zeros(state: Mapping[str, Tensor], *shape: int) -> Tensor:
    return state["bias_obj_a"].new_zeros(shape)
