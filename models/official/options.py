"""The authors' options for a configuration of ours, and what their code cannot do or does differently."""

from __future__ import annotations

import re
from typing import Any

from models.backbone_factory import is_window_transformer
from models.config import ConfigError, NetworkConfig, TextConfig

_GATES = {"VXAc": "VXAc", "GLIP": "GLIP", "none": "XGating"}
_RESNET = re.compile(r"resnet(?:50|101|152)|resnet_w[\d_]+")
_SWIN = re.compile(r"swin_(tiny|small|base|large)_patch4_window(?:7_224|(12)_384)")
_RELEASED_BACKBONES = ("resnet50", "swin_tiny", "swin_large")
_CONSTANTS = {"fusion_width": 2048, "fusion_heads": 8, "relation_branches": 16}
_TEXT_SIZES = ("hidden", "layers", "heads", "feedforward", "vocabulary", "max_positions")
"""Sizes that the authors' code takes from roberta-base."""


def official_options(config: NetworkConfig) -> dict[str, Any]:
    """Returns the command-line options of the authors' code that build a network of `config`.

    Options of data, losses and training are not among them. Raises `ConfigError` that names a setting for which their
    code has no option.
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
        "dilation": False,
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
        "num_patterns": 0,
        "dropout": config.dropout,
        "pre_norm": False,
        "two_stage": False,
        "with_box_refine": True,
        "aux_loss": True,
        "fusion_type": "GLIP_attn",
        "fusion_interval": config.fusion_interval,
        "fusion_last_vis": True,
        "lang_aux_loss": True,
        "gating_mechanism": _GATES[config.gate],
        "verb_query_tgt_type": config.relation_queries,
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
            f"their code needs as many fusions as decoder_layers={config.decoder_layers}, and here are "
            f"{-(-config.encoder_layers // config.fusion_interval)} in encoder_layers={config.encoder_layers}",
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
