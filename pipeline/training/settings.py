"""Settings of a training: what is learnt, from what sizes, how long, and how it is carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from models.config import LossSettings, NetworkConfig
from pipeline.runtime.settings import Settings, runtime
from storage.errors import FatalError


class TrainingSettings(Settings):
    """Defaults are the released recipe for 64 images a step; `network` is a table of network settings."""

    seed: int = Field(0, ge=0)
    network: dict[str, Any] = Field(default={}, validate_default=True)
    """Sizes and switches of the network (see models/config.py); what is left out has the released size."""
    tokenizer: Path | None = runtime(None)
    """Folder with a RoBERTa tokenizer's files; without it, one is made from the label names of the training set."""
    initial: Path | None = runtime(None)
    """Weights to start from (safetensors, as this project writes them); without it, random ones."""

    epochs: int = Field(20, ge=1)
    steps: int | None = Field(None, ge=1)
    """Length of the training in steps instead of epochs."""
    batch: int = Field(64, ge=1)
    """Images a step, over all processes."""
    lr: float = Field(1.41e-4, gt=0)
    lr_backbone: float = Field(1.41e-5, ge=0)
    """0: the backbone stays as it is, and no gradient of it is computed."""
    lr_text: float = Field(1.41e-5, ge=0)
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(0.1, gt=0)
    """Largest norm of the gradient."""
    schedule: Literal["step", "cosine"] = "step"
    """step: a tenth of the rate from `drop_at` on; cosine: down to a hundredth at the end."""
    drop_at: float = Field(0.75, gt=0, le=1)
    """Share of the training after which the step schedule drops the rate."""
    warmup: int = Field(0, ge=0)
    """Steps in which the rate rises from nothing."""
    loss: LossSettings = LossSettings()

    image_size: int = Field(640, ge=32)
    """Pixels of the longest side; both sides are rounded to multiples of 32."""
    smallest: float = Field(1.0, gt=0, le=1)
    """Images are scaled to a random size between this share of `image_size` and all of it."""
    flip: float = Field(0.5, ge=0, le=1)
    """Share of images that are mirrored; "left" and "right" in predicates change places."""
    colour: float = Field(0.4, ge=0, lt=1)
    """Strength of random changes of brightness, contrast and saturation."""
    object_texts: int = Field(333, ge=1)
    """Object names that a step is judged against: those of its images, filled up with others by frequency."""
    predicate_texts: int = Field(167, ge=1)
    soft_targets: bool = False
    """Expect a pseudo-label as much as it is sure, instead of fully."""

    log_every: int = Field(20, ge=1)
    """Steps between two rows of metrics."""
    precision: Literal["float32", "bfloat16"] = "float32"

    checkpoint_every: int = runtime(500, ge=1)
    """Steps between two checkpoints."""
    processes: int = runtime(2, ge=1, le=1024)
    """Training processes on this machine: one a GPU, or sharing its cores."""
    threads: int = runtime(1, ge=1)
    """Threads of each process."""
    recompute: bool = runtime(False)
    """Keep less for the backward pass and compute it again there: the same weights in the end, less memory, more time."""
    loaders: int = runtime(0, ge=0)
    """Processes that prepare images for each training process; 0 prepares them in between."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")

    @field_validator("network")
    @classmethod
    def _is_a_network(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Written out in full, so that a changed default changes the key."""
        return NetworkConfig.from_dict(values).to_dict()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batch < self.processes:
            raise ValueError(f"batch: {self.batch} images can't be shared by processes = {self.processes}")
        return self

    def reseeded(self, seed: int) -> Self:
        """The same settings with another seed."""
        return self.model_copy(update={"seed": seed})

    def files(self) -> dict[str, Path]:
        """Files whose content decides the outcome, by role. Raises `FatalError` when one is missing."""
        named = {"tokenizer": self.tokenizer, "initial": self.initial}
        given = {role: path for role, path in named.items() if path is not None}
        for role, path in given.items():
            if not path.exists():
                raise FatalError(f"{role} = {path}: no such file or folder; correct the path or leave {role} out")
        return given


CALIBRATION = "calibration.json"
"""File beside a tagger's weights that tells what its scores mean."""
RELEASED = {"feedforward": 1024, "dropout": 0.1, "gate": "GLIP", "relation_queries": "vanilla"}
"""Where the released tagger differs from the released pre-training."""


class TaggerSettings(TrainingSettings):
    """Training of the Relation Tagger; the defaults are the released recipe."""

    network: dict[str, Any] = Field(default={}, validate_default=True)
    """As for pre-training; the architecture is always that of the tagger."""
    loss: LossSettings = LossSettings(localised_predicates=False)
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
