"""Sizes and switches of a network; everything needed to rebuild it around its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

ARCHITECTURES = ("parseda", "parsed")
FUSIONS = ("alif", "late", "none")
GATES = ("VXAc", "GLIP", "none")
RELATION_QUERIES = ("vanilla_MBF", "vanilla", "MBF")
BACKBONE_NORMS = ("frozen", "batch", "group")


class ConfigError(ValueError):
    """A setting has a value that no network can be built from; the message names the field and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Kind and sizes of the text encoder; the defaults are roberta-base."""

    kind: str = "roberta"
    """Any model type of transformers that takes BERT's settings and has a pooled output: roberta, bert, ..."""
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    feedforward: int = 3072
    vocabulary: int = 50265
    max_positions: int = 514
    """Longest token sequence + 2, as RoBERTa counts positions from its padding index."""
    dropout: float = 0.1
    """Of the text encoder, the language layers, the fusion attention and the resizer."""
    initial_deviation: float = 0.02
    """Of random weights. Small encoders need about 0.25: with less, all texts begin as one and are never told apart."""

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "feedforward", "vocabulary"):
            _require(getattr(self, name) >= 1, f"text.{name}", getattr(self, name), "a whole number of at least 1")
        _require(self.max_positions >= 4, "text.max_positions", self.max_positions, "at least 4")
        _require(self.hidden % self.heads == 0, "text.hidden", self.hidden, f"a multiple of text.heads={self.heads}")
        _require(0.0 <= self.dropout < 1.0, "text.dropout", self.dropout, "a number in [0, 1)")
        _require(self.initial_deviation > 0, "text.initial_deviation", self.initial_deviation, "above 0")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of RLIPv2; the defaults are the released ParSeDA with ResNet-50."""

    architecture: str = "parseda"
    backbone: str = "resnet50"
    """Any timm name that supports feature extraction."""
    backbone_norm: str = "frozen"
    """frozen: batch statistics and first stage fixed, for pre-trained backbones; batch: as timm builds it;
    group: group norm instead of batch norm, for training from scratch with small batches."""
    backbone_strides: tuple[int, ...] = (8, 16, 32)
    """Strides of the backbone maps that are used, finest first."""
    backbone_drop_path: float = 0.0
    """Probability of leaving out the backbone's last residual block in training; the released scripts have 0.2 for Swin-T
    and 0.5 for Swin-L."""
    levels: int = 4
    """Feature levels; those beyond the backbone's are made by stride-2 convolutions."""
    width: int = 256
    heads: int = 8
    points: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 3
    """Of the subject-object decoder and of the relation decoder each."""
    feedforward: int = 2048
    pairs: int = 100
    """Subject-object pairs predicted an image; in the tagger, pairs that attend to each other."""
    dropout: float = 0.0
    fusion: str = "alif"
    """alif: texts and image meet within the encoder; late: texts and decoded queries meet at the end, as in RLIPv1;
    none: they meet in the heads only."""
    fusion_interval: int = 2
    fusion_width: int = 2048
    fusion_heads: int = 8
    gate: str = "VXAc"
    relation_queries: str = "vanilla_MBF"
    relation_branches: int = 16
    text: TextConfig = field(default_factory=TextConfig)
    official_compat: bool = False
    """Compute as the authors' code does, defects included, so that their weights give their numbers."""
    tagger: bool = False

    def __post_init__(self) -> None:
        _choice("architecture", self.architecture, ARCHITECTURES)
        _choice("backbone_norm", self.backbone_norm, BACKBONE_NORMS)
        _choice("fusion", self.fusion, FUSIONS)
        _choice("gate", self.gate, GATES)
        _choice("relation_queries", self.relation_queries, RELATION_QUERIES)
        for name in (
            "width",
            "heads",
            "points",
            "levels",
            "encoder_layers",
            "decoder_layers",
            "feedforward",
            "pairs",
            "fusion_interval",
            "fusion_width",
            "fusion_heads",
            "relation_branches",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        _require(self.width % 32 == 0, "width", self.width, "a multiple of 32 (group norm)")
        _require(self.width % self.heads == 0, "width", self.width, f"a multiple of heads={self.heads}")
        _require(
            self.width % self.relation_branches == 0,
            "relation_branches",
            self.relation_branches,
            f"a divisor of width={self.width}",
        )
        _require(
            self.fusion_width % self.fusion_heads == 0,
            "fusion_width",
            self.fusion_width,
            f"a multiple of fusion_heads={self.fusion_heads}",
        )
        for name in ("dropout", "backbone_drop_path"):
            _require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "a number in [0, 1)")
        _require(
            1 <= len(self.backbone_strides) <= self.levels,
            "backbone_strides",
            self.backbone_strides,
            f"between 1 and levels={self.levels} strides",
        )
        _require(
            list(self.backbone_strides) == sorted(set(self.backbone_strides)),
            "backbone_strides",
            self.backbone_strides,
            "increasing strides",
        )
        _require(
            not (self.tagger and self.fusion == "late"), "fusion", self.fusion, "'alif' or 'none' when tagger is true"
        )
        _require(
            not self.tagger or self.architecture == "parsed",
            "architecture",
            self.architecture,
            "'parsed' when tagger is true",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"backbone_strides": list(self.backbone_strides)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`; unknown or ill-typed fields raise ConfigError."""
        given = dict(values)
        text = given.pop("text", {})
        if not isinstance(text, TextConfig):
            if not isinstance(text, Mapping):
                raise ConfigError(f"network setting text={text!r}: must be a table of text encoder sizes")
            text = TextConfig(**_checked(TextConfig, text, "text."))
        if isinstance(given.get("backbone_strides"), list):
            given["backbone_strides"] = tuple(given["backbone_strides"])
        return cls(text=text, **_checked(cls, given, ""))


def _checked(owner: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    kinds = {f.name: type(f.default) for f in fields(owner) if f.name != "text"}
    for name, value in values.items():
        if name not in kinds:
            raise ConfigError(f"network setting {prefix}{name}: unknown; allowed: {', '.join(sorted(kinds))}")
        kind = kinds[name]
        fits = type(value) is kind or (kind is float and type(value) is int)
        _require(fits, prefix + name, value, f"of type {kind.__name__}")
    return dict(values)


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, name, value, "one of " + ", ".join(allowed))


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"network setting {name}={value!r}: must be {allowed}")
