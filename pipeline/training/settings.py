"""Settings of trainings: network, schedule, augmentation and execution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from models.config import LossSettings, NetworkConfig
from pipeline.data.images.training_view import ViewSettings
from pipeline.runtime.settings import Settings, runtime
from storage.errors import FatalError
from storage.stream.mix import LEAST_TEMPERATURE, Mix


class MixSettings(Settings):
    """How several data sets are mixed."""

    kind: Literal["concat", "proportional", "temperature"] = "concat"
    """concat: one large set, each image once per epoch, as the authors do. proportional: every stretch of the training has
    images of each set in proportion to its size. temperature: in proportion to its size to the power of 1 / `temperature`."""
    temperature: float = Field(2.0, ge=LEAST_TEMPERATURE)
    """For "temperature": 1 is proportional; the higher, the more equal the shares of large and small sets."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Data set → factor of its share, unless the kind is "concat"; 1 where it is left out."""

    @model_validator(mode="after")
    def _is_a_mix(self) -> Self:
        if self.kind == "concat" and self.weights:
            raise ValueError('weights: "concat" takes every image once; choose kind "proportional" or "temperature"')
        return self

    def storage(self) -> Mix:
        """Returns the same for streams."""
        return Mix(self.kind, self.temperature, self.weights)


class TrainingSettings(ViewSettings):
    """Settings of a training. The defaults are the released recipe for 64 images per step."""

    seed: int = Field(0, ge=0)
    """Seed of all randomness: initial weights, order and augmentation of images, label texts, negative pairs, noise, dropout."""
    network: dict[str, Any] = Field(default={}, validate_default=True)
    """Table of network settings (models/config.py). A setting that is left out has its released value."""
    tokenizer: Path | None = runtime(None)
    """Folder with the files of a RoBERTa tokenizer. Without it, one is made from the label names of the training set."""
    initial: Path | None = runtime(None)
    """Safetensors file of this project with weights to start from. Weights that it lacks, or all without it, are random."""

    epochs: int = Field(20, ge=1)
    """Length of the training in epochs, unless `steps` is given."""
    steps: int | None = Field(None, ge=1)
    """Length of the training in steps, instead of `epochs`."""
    batch: int = Field(64, ge=1)
    """Number of images per step, over all processes."""
    lr: float = Field(1.41e-4, gt=0)
    """Peak learning rate of all parameters outside the backbone and the text encoder."""
    lr_backbone: float = Field(1.41e-5, ge=0)
    """Peak learning rate of the backbone. 0 freezes the backbone, and no gradient of it is computed."""
    lr_text: float = Field(1.41e-5, ge=0)
    """Peak learning rate of the text encoder."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of AdamW, for all parameters."""
    clip: float = Field(0.1, gt=0)
    """Largest norm of the gradient over all parameters. A larger gradient is scaled down to it."""
    schedule: Literal["step", "cosine"] = "step"
    """Course of the learning rates. step: a tenth from `drop_at` on; cosine: a smooth fall to a hundredth at the end."""
    drop_at: float = Field(0.75, gt=0, le=1)
    """Share of the training, in (0, 1], after which the step schedule drops the learning rates."""
    warmup: int = Field(0, ge=0)
    """Number of first steps in which the learning rates rise linearly to their full value; 0: no warm-up."""
    loss: LossSettings = LossSettings()

    mix: MixSettings = MixSettings()
    bucket: int = Field(16, ge=1)
    """Number of images in a row whose views have similar sizes, so that little of a batch is padding. 1: any order."""
    object_texts: int = Field(333, ge=1)
    """Number of object names that a step is judged against: those of its images, then others drawn by frequency."""
    predicate_texts: int = Field(167, ge=1)
    """Number of predicate names that a step is judged against, chosen like the object names."""
    self_pairs: bool = True
    """Also learn boxes that are in no relation, as pairs of a box with itself. The authors leave them out."""
    predicate_form: Literal["predicate", "surface"] = "predicate"
    """Form of predicates. predicate: canonical ("hold"); surface: as captions and data sets word them ("is holding"), as the
    authors do."""
    soft_targets: bool = False
    """Use the confidence of a pseudo-label as its target, instead of 1."""

    log_every: int = Field(20, ge=1)
    """Number of steps between two entries of the losses and the gradient norm in the metrics."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format that the network computes in, by autocast. Its weights stay float32."""

    checkpoint_every: int = runtime(500, ge=1)
    """Number of steps between two checkpoints."""
    processes: int = runtime(2, ge=1, le=1024)
    """Number of training processes on this machine: one per GPU, or several that share its cores."""
    threads: int = runtime(1, ge=1)
    """Number of CPU threads per training process."""
    recompute: bool = runtime(False)
    """Compute parts of the forward pass again in the backward pass: less memory, more time, the same weights."""
    max_damaged: float = runtime(0.01, ge=0, le=1)
    """A training stops when more than this share of its samples is damaged, checked at each checkpoint for all processes
    together. Damaged samples are left out and named. A step without any readable image stops it in any case."""
    cache_gib: float = runtime(20.0, ge=0)
    """Size in GiB, within a few percent, of the copies that one training keeps of samples in a remote store. 0: none."""
    loaders: int = runtime(0, ge=0)
    """Number of processes that prepare images for each training process. 0: it prepares them itself, between steps."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Device to train on. auto: the GPUs of the machine if it has any, otherwise its CPU."""

    @field_validator("network")
    @classmethod
    def _is_a_network(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Fills in all defaults, so that a changed default changes the key."""
        return NetworkConfig.from_dict(values).to_dict()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batch < self.processes:
            raise ValueError(
                f"batch: {self.batch} images can't be shared by processes = {self.processes}; use fewer processes"
            )
        return self

    @property
    def view(self) -> ViewSettings:
        """The settings of how an image is cut, resized, mirrored and coloured."""
        return ViewSettings(**{name: getattr(self, name) for name in ViewSettings.model_fields})

    @property
    def whole_size(self) -> int:
        """The longest side in pixels at which the network sees whole images after its training: that of a 4:3 image at its
        largest."""
        return round(max(self.shortest) * 4 / 3) if self.shortest else self.image_size

    def reseeded(self, seed: int) -> Self:
        """Returns the same settings with another seed."""
        return self.model_copy(update={"seed": seed})

    def files(self) -> dict[str, Path]:
        """Returns the files whose content decides the outcome, by role. Raises `FatalError` when one is missing."""
        named = {"tokenizer": self.tokenizer, "initial": self.initial}
        given = {role: path for role, path in named.items() if path is not None}
        for role, path in given.items():
            if not path.exists():
                raise FatalError(f"{role} = {path}: no such file or folder; correct the path or leave {role} out")
        return given


CALIBRATION = "calibration.json"
"""File beside the weights of a tagger that maps its scores to probabilities."""
RELEASED = {"feedforward": 1024, "dropout": 0.1, "gate": "GLIP", "relation_queries": "vanilla"}
"""Network settings in which the released tagger differs from the released pre-training."""


class TaggerSettings(TrainingSettings):
    """Settings of the Relation Tagger's training. The defaults are the released recipe."""

    network: dict[str, Any] = Field(default={}, validate_default=True)
    """Table of network settings, as for pre-training. The architecture is always that of the tagger."""
    loss: LossSettings = LossSettings(localised_predicates=False)
    box_noise: float = Field(0.4, ge=0, le=1)
    """Box noise b, as a share of box size: a box moves by up to b/2 of its size, and grows or shrinks by up to b."""
    label_noise: float = Field(0.2, ge=0, le=1)
    """Probability that a box's label is replaced by a random one, so that the network has to look at the image. With
    `network.official_compat`, only the first few names are drawn, as many as the process has images, as the authors do."""
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of the images, chosen by a hash of their ids, held out to measure and calibrate the tagger. 0: neither."""
    check_every: int = Field(1000, ge=1)
    """Number of steps between two measurements on some of the held-out images."""

    @field_validator("network")
    @classmethod
    def _is_a_network(cls, values: dict[str, Any]) -> dict[str, Any]:
        return NetworkConfig.from_dict({**RELEASED, **values, "architecture": "parsed", "tagger": True}).to_dict()
