"""Infers which network a checkpoint belongs to, and its configuration, from names and shapes of parameters and the
settings of its training run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from models.backbone import is_window_transformer, sized_resnet
from models.config import ConfigError, NetworkConfig


class Architecture(Enum):
    """Networks whose checkpoints can be imported."""

    PARSEDA = "RLIPv2-ParSeDA"
    PARSED = "RLIPv2-ParSeD"
    TAGGER = "R-Tagger"
    DEFORMABLE = "Deformable-DETR"
    DAB_DEFORMABLE = "DAB-Deformable-DETR"

    @property
    def detector(self) -> bool:
        """Whether the network only detects objects, so that everything about texts and relations is new."""
        return self in (Architecture.DEFORMABLE, Architecture.DAB_DEFORMABLE)

    @property
    def anchored(self) -> bool:
        """Whether queries start from boxes (ParSeDA) instead of positions (ParSeD)."""
        return self in (Architecture.PARSEDA, Architecture.DAB_DEFORMABLE)


def kind_of(names: Collection[str]) -> Architecture | None:
    """Returns the kind of network with parameters of these names; None when it is not supported."""
    present = set(names)
    # What the authors' converter makes of a detector still has the detector's own decoder, which no RLIP has.
    if "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight" in present:
        if "refpoint_embed.weight" in present:
            return Architecture.DAB_DEFORMABLE
        return Architecture.DEFORMABLE if "query_embed.weight" in present else None
    if "transformer.ho_decoder.layers.0.cross_attn.sampling_offsets.weight" in present:
        if "transformer.coord_proj.weight" in present:
            return Architecture.TAGGER
        if "refpoint_embed.weight" in present:
            return Architecture.PARSEDA
        return Architecture.PARSED if "query_embed.weight" in present else None
    return None


Shapes = Mapping[str, tuple[int, ...]]
GATES = {"VXAc": "VXAc", "GLIP": "GLIP", "XGating": "none"}
"""The authors' name of a gating mechanism → ours."""
_QUERIES = ("vanilla_MBF", "vanilla", "MBF")
ONLY = {
    "two_stage": False,
    "dilation": False,
    "pre_norm": False,
    "num_patterns": 0,
    "fusion_type": "GLIP_attn",
    "fusion_last_vis": True,
    "lang_aux_loss": True,
}
"""Settings of the authors' code for which our networks support only one value."""
_EXAMPLES = {"heads": 8, "gate": "VXAc", "relation_queries": "vanilla_MBF", "text.heads": 12}
"""The released networks' values of settings that shapes may not determine."""
_LANGUAGE = "transformer.text_encoder."


def infer_config(
    shapes: Shapes, kind: Architecture, args: Mapping[str, Any], overrides: Mapping[str, Any]
) -> NetworkConfig:
    """Infers the configuration of the network whose official parameters have these shapes.

    `args` are the authors' command-line settings; `overrides` are settings of NetworkConfig that take precedence over
    everything else. Raises `ConfigError` that names what is not supported or cannot be inferred.
    """
    complete = any(name.startswith(_LANGUAGE) for name in shapes)
    settings = _vision(shapes, kind, args, overrides) | (_language(shapes, kind, args) if complete else {"text": {}})
    settings |= {name: value for name, value in overrides.items() if name != "text"}
    text = overrides.get("text", {})
    if not isinstance(text, Mapping):
        raise ConfigError(f"network setting text={text!r}: set one of its settings instead, e.g. text.heads")
    settings["text"] |= text
    open_settings = [name for name, value in settings.items() if value is None]
    open_settings += [f"text.{name}" for name, value in settings["text"].items() if value is None]
    if open_settings:
        raise ConfigError(
            f"cannot infer {', '.join(open_settings)} from the file: pass the settings of the training run with --args "
            f"FILE.json, or {' '.join(f'--set {name}={_EXAMPLES[name]}' for name in open_settings)} if correct"
        )
    return NetworkConfig.from_dict(settings)


def _vision(
    shapes: Shapes, kind: Architecture, args: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the settings of the parts that detect objects."""
    # Only the second stage of a two-stage detector is used.
    _refuse_others({name: value for name, value in args.items() if not (kind.detector and name == "two_stage")})
    encoder = _encoder(kind)
    levels, width = _matrix(shapes, "transformer.level_embed")
    # Shapes show the product of heads and points alone; the released networks have 8 heads.
    heads = overrides.get("heads", args.get("nheads", 8 if width == 256 else None))
    queries = (
        "transformer.verb_tgt" if kind is Architecture.TAGGER else "refpoint_embed" if kind.anchored else "query_embed"
    )
    offsets, _ = _matrix(shapes, f"{encoder}.layers.0.self_attn.sampling_offsets.weight")
    points = {"points": offsets // (heads * levels * 2)} if isinstance(heads, int) and heads > 0 else {}
    backbone = backbone_name(shapes)
    maps = sum(shape[2:] == (1, 1) for name, shape in shapes.items() if name.startswith("input_proj."))
    return {
        "architecture": "parseda" if kind.anchored else "parsed",
        "tagger": kind is Architecture.TAGGER,
        "official_compat": True,
        "backbone": backbone,
        # Their ResNets have none, whatever the option says.
        "backbone_drop_path": args.get("drop_path_rate", 0.0) if is_window_transformer(backbone) else 0.0,
        "backbone_strides": [8, 16, 32][-maps:],
        "levels": levels,
        "width": width,
        "heads": heads,
        "encoder_layers": _count(shapes, f"{encoder}.layers"),
        "decoder_layers": _count(shapes, "transformer.ho_decoder.layers"),
        "feedforward": _matrix(shapes, f"{encoder}.layers.0.linear1.weight")[0],
        "pairs": _matrix(shapes, f"{queries}.weight")[0] // 2,
        "dropout": args.get("dropout", 0.0),
    } | points


def _language(shapes: Shapes, kind: Architecture, args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the parts that read texts and relate objects."""
    encoder = _encoder(kind)
    layers, fusions = _count(shapes, f"{encoder}.layers"), _count(shapes, f"{encoder}.VLFuse_layers")
    vocabulary, hidden = _matrix(shapes, f"{_LANGUAGE}embeddings.word_embeddings.weight")
    settings: dict[str, Any] = {
        "relation_queries": _relation_queries(shapes, kind, args),
        "text": {
            "hidden": hidden,
            "layers": _count(shapes, f"{_LANGUAGE}encoder.layer"),
            # The heads of RoBERTa's published sizes are 64 wide.
            "heads": hidden // 64 if hidden in (768, 1024) else None,
            "feedforward": _matrix(shapes, f"{_LANGUAGE}encoder.layer.0.intermediate.dense.weight")[0],
            "vocabulary": vocabulary,
            "max_positions": _matrix(shapes, f"{_LANGUAGE}embeddings.position_embeddings.weight")[0],
        },
    }
    if branches := _count(shapes, "transformer.verb_tgt_generator.fc_1"):
        settings["relation_branches"] = branches
    if not fusions:
        return settings | {"fusion": "none"}
    return settings | {
        "gate": GATES.get(args["gating_mechanism"], args["gating_mechanism"]) if "gating_mechanism" in args else None,
        "fusion_interval": args.get("fusion_interval", -(-layers // fusions)),
        "fusion_width": _matrix(shapes, f"{encoder}.VLFuse_layers.0.b_attn.attn.v_proj.weight")[0],
    }


def _relation_queries(shapes: Shapes, kind: Architecture, args: Mapping[str, Any]) -> str | None:
    if "verb_query_tgt_type" in args:
        return str(args["verb_query_tgt_type"])
    own_positions = "transformer.verb_query_embed.weight" in shapes
    return None if kind is Architecture.PARSEDA or own_positions else "vanilla"


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    """Returns the rows and columns of a parameter from which sizes are inferred."""
    shape = shapes.get(name)
    if shape is None or len(shape) != 2 or 0 in shape:
        problem = "is missing" if shape is None else f"has shape {shape}"
        raise ConfigError(f"the parameter {name} {problem}; the network's sizes are inferred from its rows and columns")
    return shape[0], shape[1]


def _encoder(kind: Architecture) -> str:
    return "transformer.encoder" if kind.anchored else "transformer.ho_encoder"


def _count(shapes: Shapes, prefix: str) -> int:
    """Counts the numbered parts under a prefix."""
    layer = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({found[1] for name in shapes if (found := layer.match(name))})


def _refuse_others(args: Mapping[str, Any]) -> None:
    for name, only in ONLY.items():
        if name in args and args[name] != only:
            raise ConfigError(f"trained with {name}={args[name]!r}; only networks with {name}={only!r} can be rebuilt")


_BODY = "backbone.0.body."
_SWIN: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}


def backbone_name(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Returns the backbone's name in `models.backbone`. Raises `ConfigError` for unsupported backbones."""
    body = {name.removeprefix(_BODY): shape for name, shape in shapes.items() if name.startswith(_BODY)}
    if "conv1.weight" in body and "layer1.0.bn3.weight" in body:
        return sized_resnet(body["conv1.weight"][0], [_count(body, f"layer{stage}") for stage in range(1, 5)])
    biases = body.get("layers.0.blocks.0.attn.relative_position_bias_table", ())
    if len(body.get("patch_embed.proj.weight", ())) == 4 and len(biases) == 2:
        width = body["patch_embed.proj.weight"][0]
        depths = tuple(_count(body, f"layers.{stage}.blocks") for stage in range(4))
        window = (round(biases[0] ** 0.5) + 1) // 2
        if (width, depths) in _SWIN and window in (7, 12):
            return f"swin_{_SWIN[width, depths]}_patch4_window{window}_{32 * window}"
    raise ConfigError(
        f"unsupported backbone (neither a bottleneck ResNet nor a Swin); its parameters begin with {sorted(body)[:3]}"
    )
