"""Settings that only the Relation Tagger's training has."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from models.config import NetworkConfig
from pipeline.training.settings import LossWeights, TrainingSettings

CALIBRATION = "calibration.json"
"""File beside a tagger's weights that tells what its scores mean."""
RELEASED = {"feedforward": 1024, "dropout": 0.1, "gate": "GLIP", "relation_queries": "vanilla"}
"""Where the released tagger differs from the released pre-training."""


class TaggerSettings(TrainingSettings):
    """Training of the Relation Tagger; the defaults are the released recipe."""

    network: dict[str, Any] = Field(default={}, validate_default=True)
    """As for pre-training; the architecture is always that of the tagger."""
    loss: LossWeights = LossWeights(localised_predicates=False)
    box_noise: float = Field(0.4, ge=0, le=1)
    """Boxes move by up to this share of half their size, and grow or shrink by up to this share of it."""
    label_noise: float = Field(0.2, ge=0, le=1)
    """Share of the pairs' labels that are replaced by random ones, so that the image has to be looked at; under the
    network's `official_compat` by the first few names only, as many as the process has images, as the authors' are."""
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of the images, chosen by a hash of their ids, that the tagger is measured on instead of trained.
    Its calibration comes from them: 0 leaves scores without one."""
    check_every: int = Field(1000, ge=1)
    """Steps between two measurements on some of them."""

    @field_validator("network")
    @classmethod
    def _is_a_network(cls, values: dict[str, Any]) -> dict[str, Any]:
        return NetworkConfig.from_dict({**RELEASED, **values, "architecture": "parsed", "tagger": True}).to_dict()
