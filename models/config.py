"""Sizes and switches of a network and of its losses; everything needed to rebuild a network around its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

NO_OBJECTS = "no objects"
"""The text that stands for the absence of an object. It is always the last of the object texts."""


class ConfigError(ValueError):
    """A setting has a value that no network can be built from. The message names the field and what is allowed."""


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r}: must be {allowed}")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class TextConfig:
    """Kind and sizes of the text encoder. The defaults are those of roberta-base."""

    kind: str = "roberta"
    """Any model type of transformers that takes BERT's settings and has a pooled output: roberta, bert, ..."""
    hidden: int = Field(default=768, ge=1)
    layers: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    feedforward: int = Field(default=3072, ge=1)
    vocabulary: int = Field(default=50265, ge=1)
    max_positions: int = Field(default=514, ge=4)
    """Longest token sequence + 2, because RoBERTa counts positions from its padding index."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the text encoder, the language layers, the fusion attention and the resizer."""
    initial_deviation: float = Field(default=0.02, gt=0)
    """Standard deviation of random weights. Small encoders need about 0.25: with less, all texts start out alike and are
    never told apart."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _require(self.hidden % self.heads == 0, "hidden", self.hidden, f"a multiple of heads={self.heads}")
        return self


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class NetworkConfig:
    """Sizes of RLIPv2. The defaults are those of the released ParSeDA with ResNet-50.

    Constructing one directly raises pydantic's ValidationError for bad values, `from_dict` raises ConfigError.
    """

    architecture: Literal["parseda", "parsed"] = "parseda"
    backbone: str = "resnet50"
    """Any timm name that supports feature extraction."""
    backbone_norm: Literal["frozen", "batch", "group"] = "frozen"
    """frozen: batch statistics and first stage fixed, for pre-trained backbones; batch: as timm builds it;
    group: group norm instead of batch norm, for training from scratch with small batches."""
    backbone_strides: tuple[int, ...] = Field(default=(8, 16, 32), strict=False, min_length=1)
    """Strides of the backbone maps that are used, finest first."""
    backbone_drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability of leaving out the backbone's last residual block in training. The released scripts use 0.2 for Swin-T
    and 0.5 for Swin-L."""
    levels: int = Field(default=4, ge=1)
    """Feature levels; those beyond the backbone's are made by stride-2 convolutions."""
    width: int = Field(default=256, ge=1, multiple_of=32)
    """A multiple of the 32 groups of group norm."""
    heads: int = Field(default=8, ge=1)
    points: int = Field(default=4, ge=1)
    encoder_layers: int = Field(default=6, ge=1)
    decoder_layers: int = Field(default=3, ge=1)
    """Of the subject-object decoder and of the relation decoder each."""
    feedforward: int = Field(default=2048, ge=1)
    pairs: int = Field(default=100, ge=1)
    """Subject-object pairs predicted per image; in the tagger, pairs that attend to each other."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    fusion: Literal["alif", "late", "none"] = "alif"
    """alif: texts and image meet within the encoder; late: texts and decoded queries meet at the end, as in RLIPv1;
    none: they meet in the heads only."""
    fusion_interval: int = Field(default=2, ge=1)
    fusion_width: int = Field(default=2048, ge=1)
    fusion_heads: int = Field(default=8, ge=1)
    gate: Literal["VXAc", "GLIP", "none"] = "VXAc"
    relation_queries: Literal["vanilla_MBF", "vanilla", "MBF"] = "vanilla_MBF"
    relation_branches: int = Field(default=16, ge=1)
    text: TextConfig = TextConfig()
    official_compat: bool = False
    """Compute as the authors' code does, defects included, so that their weights give their numbers."""
    tagger: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        width, strides = self.width, self.backbone_strides
        _require(width % self.heads == 0, "width", width, f"a multiple of heads={self.heads}")
        branches = self.relation_branches
        _require(width % branches == 0, "relation_branches", branches, f"a divisor of width={width}")
        fused = self.fusion_width
        _require(
            fused % self.fusion_heads == 0, "fusion_width", fused, f"a multiple of fusion_heads={self.fusion_heads}"
        )
        most = self.levels
        _require(len(strides) <= most, "backbone_strides", strides, f"between 1 and levels={most} strides")
        _require(list(strides) == sorted(set(strides)), "backbone_strides", strides, "increasing strides")
        if self.tagger:
            _require(self.fusion != "late", "fusion", self.fusion, "'alif' or 'none' when tagger is true")
            architecture = self.architecture
            _require(architecture == "parsed", "architecture", architecture, "'parsed' when tagger is true")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"backbone_strides": list(self.backbone_strides)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ConfigError for unknown or ill-typed fields."""
        given = dict(values)
        try:
            if isinstance(given.get("text"), Mapping):
                given["text"] = _made(TextConfig, given["text"], "text.")
            return cls(**given)
        except ValidationError as error:
            raise ConfigError(_explain(error, cls, "")) from error


class LossSettings(BaseModel):
    """Weights of the loss terms. The defaults are those of the released pre-training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: float = Field(1.0, ge=0)
    predicates: float = Field(1.0, ge=0)
    box: float = Field(2.5, ge=0)
    giou: float = Field(1.0, ge=0)
    background: float = Field(0.1, ge=0)
    """Weight of "no objects" in the class loss."""
    localised_predicates: bool = True
    """True: predicates are expected only as much as both boxes are right (quality focal); False: CornerNet focal."""
    pseudo_predicates: bool = False
    """Also expect, more weakly, predicates whose texts are similar to the true ones."""


def _made(kind: type[TextConfig], values: Mapping[str, Any], prefix: str) -> TextConfig:
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, kind, prefix)) from error


def _explain(error: ValidationError, kind: type[Any], prefix: str) -> str:
    """The first mistake in plain words: setting, value, what is allowed."""
    mistake = error.errors()[0]
    name = prefix + ".".join(map(str, mistake["loc"]))
    said = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if mistake["type"] == "unexpected_keyword_argument":
        return f"network setting {name}: unknown; allowed: {', '.join(sorted(kind.__dataclass_fields__))}"
    if mistake["loc"]:
        return f"network setting {name}={mistake['input']!r}: {said}"
    return f"network setting {prefix}{said}"
