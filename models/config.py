"""Settings of a network and of its losses: everything needed to rebuild a network around its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

NO_OBJECTS = "no objects"
"""The text that stands for the absence of an object; always the last of the object texts."""

LAYERS, LEVELS, BRANCHES = 100, 16, 1024
"""Maximum numbers of modules of a kind. Weights from strangers state them, and each takes time and memory to build."""
SIZES, ROWS = 2**16, 2**24
"""Maximum widths, and maximum numbers of vectors in a table. Together they keep the number of weights within 64 bits.
"""


Config = TypeVar("Config")


class ConfigError(ValueError):
    """Raised for a setting that no network can be built from; the message names the field and what is allowed."""


def _require(config: object, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}={getattr(config, name)!r}: must be {allowed}")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class TextConfig:
    """Kind and sizes of the text encoder. The defaults are those of roberta-base."""

    kind: str = "roberta"
    """A model type of transformers that takes BERT's settings and has a pooled output, e.g. roberta or bert."""
    hidden: int = Field(default=768, ge=1, le=SIZES)
    """Width of token features."""
    layers: int = Field(default=12, ge=1, le=LAYERS)
    """Number of transformer layers."""
    heads: int = Field(default=12, ge=1)
    """Attention heads of each layer."""
    feedforward: int = Field(default=3072, ge=1, le=SIZES)
    """Width of the feed-forward networks."""
    vocabulary: int = Field(default=50265, ge=1, le=ROWS)
    """Maximum number of tokens of the tokenizer."""
    max_positions: int = Field(default=514, ge=4, le=ROWS)
    """Length of the longest token sequence + 2, because RoBERTa counts positions from its padding index."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the text encoder, the language layers, the fusion attention and the resizer."""
    initial_deviation: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights. Small encoders need about 0.25."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _require(self, "hidden", self.hidden % self.heads == 0, f"a multiple of heads={self.heads}")
        return self


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class NetworkConfig:
    """Sizes and variants of an RLIPv2 network. The defaults are those of the released ParSeDA with ResNet-50.

    The constructor raises pydantic's `ValidationError` for bad values; `from_dict` raises `ConfigError`.
    """

    architecture: Literal["parseda", "parsed"] = "parseda"
    """parseda: anchored queries, as in DAB-DETR; parsed: learned queries, as in Deformable DETR."""
    backbone: str = "resnet50"
    """Any timm model that supports feature extraction, or a ResNet of any size, e.g. resnet_w16_2_2_2_2."""
    backbone_norm: Literal["frozen", "batch", "group"] = "frozen"
    """frozen: fixed batch statistics and first stage, for pre-trained backbones; batch: as timm builds it; group: group
    norm, for training from scratch with small batches."""
    # Not strict, because JSON has lists and no tuples.
    backbone_strides: tuple[int, ...] = Field(default=(8, 16, 32), strict=False, min_length=1)
    """Strides of the backbone maps to use, finest first."""
    backbone_drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability of skipping the backbone's last residual block in training. The released scripts: 0.2 for Swin-T, 0.5
    for Swin-L."""
    levels: int = Field(default=4, ge=1, le=LEVELS)
    """Number of feature levels; stride-2 convolutions produce those beyond the backbone's maps."""
    width: int = Field(default=256, ge=1, le=SIZES, multiple_of=32)
    """Width of image features and queries; a multiple of the 32 groups of group norm."""
    heads: int = Field(default=8, ge=1)
    """Attention heads of the encoder and the decoders."""
    points: int = Field(default=4, ge=1, le=SIZES)
    """Points that each head of deformable attention samples per level."""
    encoder_layers: int = Field(default=6, ge=1, le=LAYERS)
    """Layers of the image encoder."""
    decoder_layers: int = Field(default=3, ge=1, le=LAYERS)
    """Number of layers in each of the two decoders, for subjects and objects and for relations."""
    feedforward: int = Field(default=2048, ge=1, le=SIZES)
    """Width of the feed-forward networks of encoder and decoders."""
    pairs: int = Field(default=100, ge=1, le=ROWS)
    """Number of subject-object pairs predicted per image; in the tagger, number of pairs that attend to each other."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of encoder and decoders."""
    fusion: Literal["alif", "late", "none"] = "alif"
    """alif: in the encoder; late: after the decoders, as in RLIPv1; none: texts and queries are only compared in the
    heads."""
    fusion_interval: int = Field(default=2, ge=1)
    """alif: number of encoder layers that follow each fusion of images and texts."""
    fusion_width: int = Field(default=2048, ge=1, le=SIZES)
    """Width of the fusion attention."""
    fusion_heads: int = Field(default=8, ge=1)
    """Heads of the fusion attention."""
    gate: Literal["VXAc", "GLIP", "none"] = "VXAc"
    """Scale of the fused update: one learned number (VXAc), one per channel (GLIP), or none."""
    relation_queries: Literal["vanilla_MBF", "vanilla", "MBF"] = "vanilla_MBF"
    """Content of relation queries: learned (vanilla), from subject and object (MBF), or the sum of both."""
    relation_branches: int = Field(default=16, ge=1, le=BRANCHES)
    """Branches of the module that computes relation queries from subject and object."""
    text: TextConfig = TextConfig()
    official_compat: bool = False
    """Compute as the authors' code does, bugs included, so their weights reproduce their results."""
    tagger: bool = False
    """Whether this is a Relation Tagger, whose pairs of boxes are inputs."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        width, strides, heads = self.width, self.backbone_strides, self.fusion_heads
        _require(self, "width", width % self.heads == 0, f"a multiple of heads={self.heads}")
        _require(self, "relation_branches", width % self.relation_branches == 0, f"a divisor of width={width}")
        _require(self, "fusion_width", self.fusion_width % heads == 0, f"a multiple of fusion_heads={heads}")
        _require(self, "backbone_strides", len(strides) <= self.levels, f"between 1 and levels={self.levels} strides")
        _require(self, "backbone_strides", list(strides) == sorted(set(strides)), "increasing strides")
        if self.tagger:
            _require(self, "fusion", self.fusion != "late", "'alif' or 'none' when tagger is true")
            _require(self, "architecture", self.architecture == "parsed", "'parsed' when tagger is true")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON."""
        return asdict(self) | {"backbone_strides": list(self.backbone_strides)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds a configuration from the values of `to_dict`. Raises `ConfigError` for unknown or ill-typed fields."""
        settings = dict(values)
        if isinstance(settings.get("text"), Mapping):
            settings["text"] = _build(TextConfig, settings["text"], "text.")
        return _build(cls, settings, "")


class LossSettings(BaseModel):
    """Weights of the loss terms. The defaults are those of the released pre-training, except `pseudo_predicates`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: float = Field(1.0, ge=0)
    """Weight of the subject and object class losses."""
    predicates: float = Field(1.0, ge=0)
    """Weight of the predicate loss."""
    box: float = Field(2.5, ge=0)
    """Weight of the L1 box losses."""
    giou: float = Field(1.0, ge=0)
    """Weight of the generalised IoU losses."""
    background: float = Field(0.1, ge=0)
    """Weight of "no objects" in the class loss."""
    localised_predicates: bool = True
    """True: scale predicate targets by how well both boxes fit (quality focal loss); False, the default of
    `train_tagger`: CornerNet focal loss."""
    pseudo_predicates: bool = False
    """Also use predicates whose texts are similar to the true ones as weaker targets (released pre-training: true); not
    for `train_tagger`."""


def _build(kind: type[Config], values: Mapping[str, Any], prefix: str) -> Config:
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, kind, prefix)) from error


def _explain(error: ValidationError, kind: type[Any], prefix: str) -> str:
    """Describes the first mistake: setting, value and what is allowed."""
    mistake = error.errors()[0]
    name = prefix + ".".join(map(str, mistake["loc"]))
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if mistake["type"] == "unexpected_keyword_argument":
        return f"network setting {name}: unknown; allowed: {', '.join(sorted(kind.__dataclass_fields__))}"
    if mistake["loc"]:
        return f"network setting {name}={mistake['input']!r}: {message}"
    return f"network setting {prefix}{message}"
