"""Settings of training runs: network, schedule, augmentation and execution."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator

from models.config import LossSettings, NetworkConfig
from pipeline.data.images.training_view import ViewSettings
from pipeline.runtime.settings import Address, file_read, runtime
from pipeline.training.vocabulary import tokenizer_of
from storage.errors import FatalError
from storage.stream.order import Mix, stable_seed

TrackerKind = Literal["wandb", "mlflow", "trackio"]
"""Trackers in addition to TensorBoard. Each needs the extra of its name."""


AS_THE_AUTHORS: dict[str, Any] = {
    "image_size": 1333,
    "shortest": tuple(range(480, 801, 32)),
    "crop": 0.5,
    "bucket": 1,
    "self_pairs": False,
    "predicate_form": "surface",
}
"""Settings that `official` changes, besides `network.official_compat`."""


class TrainingSettings(ViewSettings):
    """Settings of a training run. By default, network, learning rates and loss weights are those of the released recipe
    for 64 images per step; views, pairs, predicates and `pseudo_predicates` are not."""

    kind: ClassVar[str] = "pretrain"
    """What is trained, in names of folders and messages."""
    official: bool = False
    """Train as the authors do, bugs included: their views of images, pixel for pixel, at twice the time; images in any
    order; no pairs of a box with itself; predicates as worded; `network.official_compat`. The recipe's own settings
    take precedence."""
    seed: int = Field(0, ge=0)
    """Random seed."""
    network_defaults: ClassVar[dict[str, Any]] = {}
    """Network settings in which this kind of training run differs from the released pre-training."""
    network_constants: ClassVar[dict[str, Any]] = {}
    """Network settings that this kind of training run always has."""
    network: NetworkConfig = NetworkConfig()
    """Network settings (models/config.py). A setting that is not given has its released value."""
    tokenizer: Path | None = file_read(None)
    """Folder of the text encoder's tokenizer. Unset: the one beside `pretrained` or, without that, one for RoBERTa made
    from the label names of the training set."""
    pretrained: Path | None = file_read(None)
    """Weights to start from: a safetensors file of this project, or its folder. Missing weights are random."""

    random_start: bool = runtime(False)
    """Allow random weights for a network whose backbone is partly frozen (`backbone_norm`) or whose text encoder is as
    large as roberta-base."""

    epochs: int = Field(20, ge=1)
    """Length of the training run in epochs, unless `steps` is given."""
    steps: int | None = Field(None, ge=1)
    """Length of the training run in steps, instead of `epochs`."""
    batch: int = Field(64, ge=1)
    """Number of images per step, over all processes."""
    micro_batch: int = Field(8, ge=1)
    """Number of images that pass through the network together (docs/training.md); `batch` is a multiple of it, or
    smaller. The released scripts: 8 with ResNet-50, 4 with Swin-T, 2 with Swin-L."""
    lr_for_batch: int | None = Field(None, ge=1)
    """The `batch` that the learning rates are meant for. For other batches, they are scaled by the square root of the
    ratio. Unset: no scaling."""
    lr: float = Field(1.41e-4, gt=0)
    """Peak learning rate of all other parameters."""
    lr_backbone: float = Field(1.41e-5, ge=0)
    """Peak learning rate of the backbone. 0 freezes it."""
    lr_text: float = Field(1.41e-5, ge=0)
    """Peak learning rate of the text encoder. 0 freezes it."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of AdamW, for all parameters."""
    # Keys hold the former name, so that earlier training runs are found.
    max_grad_norm: float = Field(
        0.1, gt=0, validation_alias=AliasChoices("max_grad_norm", "clip"), serialization_alias="clip"
    )
    """Maximum gradient norm; larger gradients are scaled down to it."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate schedule. step: a tenth from `drop_at` on; cosine: cosine decay to a hundredth at the end.
    """
    drop_at: float = Field(0.75, gt=0, le=1)
    """step: share of the training run, in (0, 1], after which the learning rates drop."""
    warmup: int = Field(0, ge=0)
    """Number of initial steps with linearly rising learning rates."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which becomes the result; 0: no average."""
    loss: LossSettings = LossSettings()

    mix: Mix = Mix()
    bucket: int = Field(16, ge=1)
    """Number of consecutive images whose views have similar sizes, which saves padding. 1: any order."""
    object_texts: int = Field(333, ge=1)
    """Number of object names to score against: those of the images, then others sampled by frequency."""
    predicate_texts: int = Field(167, ge=1)
    """The same for predicates."""
    self_pairs: bool = True
    """Also learn boxes without a relation, as pairs of a box with itself. The authors ignore them. Variant none always
    learns them."""
    predicate_form: Literal["predicate", "surface"] = "predicate"
    """Form of predicates. predicate: canonical ("hold"), as in evaluations; surface (authors): as worded ("is
    holding")."""
    soft_targets: bool = False
    """Use the confidence of a pseudo-label as its target, instead of 1."""

    log_every: int = Field(20, ge=1)
    """Steps between log entries of losses and gradient norm."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between evaluations of a pre-training on `data.test` (zero-shot mAP with any subject, AP50). Unset: only at
    its end. Not with FSDP2."""
    evaluate_images: int = Field(200, ge=1)
    """Number of images of these evaluations, the first ones. Stage `evaluate` scores all."""
    trackers: tuple[TrackerKind, ...] = runtime(())
    """Trackers in addition to TensorBoard, offline unless their settings say otherwise (docs/training.md, Tracking)."""
    tracking: Path = runtime(Path("out/training"))
    """Output folder of trackers. Set an absolute path if a training run may be resumed from another folder."""
    alarm_factor: float = runtime(4.0, gt=1)
    """A run whose loss or gradient norm exceeds this many times the median of its last steps, three steps in a row, is
    reported as diverging."""
    alarm_window: int = runtime(100, ge=6)
    """Number of steps in this median."""
    precision: Literal["auto", "float32", "tf32", "medium", "bfloat16"] = "float32"
    """Number format of the network; weights and losses stay float32. tf32: GPUs round factors of matrix products to 10
    bits. medium: CPUs with bfloat16 may round those factors to it; tf32 on a GPU. bfloat16: autocast, with tf32 for the
    rest. auto: bfloat16 if the device has instructions for it, else float32; the key records which."""

    checkpoint_every: int = runtime(500, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = runtime(2, ge=1)
    """Number of newest checkpoints to keep."""
    milestone_every: int | None = runtime(None, ge=1)
    """Steps between checkpoints that are kept until the run ends. Unset: none."""
    write_aside: float = runtime(64.0, ge=0)
    """Minimum size in MiB of checkpoints that are written while training continues."""
    parallel: Literal["ddp", "fsdp", "hsdp", "tree"] = runtime("ddp")
    """How processes share the work: ddp, fsdp (FSDP2 over all), hsdp (FSDP2 within a node, copies on other nodes), or
    tree, which gives the same bits for any number of processes (docs/training.md, Several processes)."""
    deterministic: Literal["bits", "fast"] = runtime("bits")
    """bits: repeated training gives the same bits. fast: low-order bits differ, since a GPU sums gradients in any order
    and uses fused attention, which takes less memory, and cuDNN's faster convolutions."""
    compile: bool = runtime(False)
    """Compile the network's layers with torch.compile (docs/training.md). Not with FSDP2."""
    processes: int = runtime(2, ge=1, le=1024)
    """Processes on each node: one per GPU, or several that share its cores."""
    nodes: int = runtime(1, ge=1, le=1024)
    """Number of machines that train together; all but the coordinator run `rlip cluster join` (docs/training.md)."""
    min_nodes: int | None = runtime(None, ge=1)
    """Number of nodes with which to continue after losing some. Unset: all of `nodes`."""
    address: Address | None = runtime(None)
    """HOST:PORT where the coordinator listens for the other nodes, on a private network: anyone who can connect to it
    can disturb training (docs/security.md)."""
    restarts: int = runtime(3, ge=0)
    """Maximum restarts after losing a process, without a new checkpoint in between."""
    collective_timeout: float = runtime(600.0, gt=0)
    """Seconds in a collective operation after which training counts as hung."""
    stop_timeout: float = runtime(120.0, gt=0)
    """Maximum seconds for a stop: the rest of a step, and a checkpoint (2.6 GB with Swin-L)."""
    node_timeout: float = runtime(15.0, gt=1)
    """Seconds without a heartbeat after which a node counts as lost; the coordinator after half as long again."""
    threads: int = runtime(1, ge=1)
    """Number of CPU threads per training process."""
    activation_checkpointing: bool = runtime(False)
    """Recompute parts of the forward pass in the backward pass: less memory, more time, same weights."""
    max_damaged: float = runtime(0.01, ge=0, le=1)
    """Training stops if more than this share of its samples is damaged, checked at each checkpoint."""
    cache_gib: float = runtime(20.0, ge=0)
    """Maximum size in GiB of a run's local copies of samples in a remote store."""
    num_workers: int = runtime(0, ge=0)
    """Number of loader processes per training process. 0: it loads images itself, between steps."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")
    """Device to train on. auto: GPUs if the machine (with several nodes, the coordinator) has any, else CPUs."""

    @model_validator(mode="before")
    @classmethod
    def _set_as_the_authors(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("official") is not True:
            return values
        network = values.get("network", {})
        filled = {"official_compat": True} | network if isinstance(network, dict) else network
        return AS_THE_AUTHORS | values | {"network": filled}

    @field_validator("network", mode="before")
    @classmethod
    def _to_network(cls, values: Any) -> NetworkConfig:
        """Raises `ConfigError`, whose message names the setting and what is allowed."""
        if isinstance(values, NetworkConfig):
            return values
        if not isinstance(values, dict):
            raise ValueError("not a table of network settings")
        return NetworkConfig.from_dict(cls.network_defaults | values | cls.network_constants)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batch > self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(f"batch: {self.batch} images aren't a multiple of micro_batch = {self.micro_batch}")
        if self.micro_batches < self.processes * self.nodes:
            on_nodes = f" on each of nodes = {self.nodes}" if self.nodes > 1 else ""
            raise ValueError(
                f"batch: {self.batch} images in micro-batches of {self.micro_batch} can't be shared by processes = "
                f"{self.processes}{on_nodes}; use batch = {self.processes * self.nodes * self.micro_batch} with "
                f"lr_for_batch = {self.lr_for_batch or self.batch} (learning rates grow with the root of the batch), a "
                "smaller micro_batch, or fewer processes"
            )
        if self.network.backbone_norm == "batch" and self.processes * self.nodes > 1:
            raise ValueError(
                'network.backbone_norm: with "batch", each process would have its own statistics; set processes = 1, '
                "or another norm"
            )
        if self.network.backbone_norm == "batch" and self.lr_backbone == 0:
            raise ValueError(
                'lr_backbone: 0 freezes the backbone, but with network.backbone_norm = "batch" its statistics would '
                'change; set backbone_norm = "frozen"'
            )
        if self.parallel == "tree" and self.deterministic == "fast":
            raise ValueError(
                'deterministic: parallel = "tree" guarantees the same bits; set "bits", or parallel = "ddp"'
            )
        is_sharded = self.parallel in ("fsdp", "hsdp")
        if self.compile and is_sharded:
            raise ValueError('compile: torch.compile fails on the layers of FSDP2; set parallel = "ddp"')
        if self.evaluate_every and is_sharded:
            raise ValueError(
                'evaluate_every: each process evaluates with the whole network; set parallel to "ddp" or "tree"'
            )
        if self.nodes > 1 and self.address is None:
            raise ValueError(f"address: nodes = {self.nodes} need an address to meet at, such as 10.0.0.7:29500")
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes: {self.min_nodes} is more than nodes = {self.nodes}")
        for nodes in range(self.min_nodes or self.nodes, self.nodes + 1) if is_sharded else ():
            if self.micro_batches % (count := self.processes * nodes):
                raise ValueError(
                    f'parallel: with "{self.parallel}", each process must gather weights equally often, but the '
                    f"{self.micro_batches} micro-batches of a step are not a multiple of {count} processes; change "
                    'processes, min_nodes, batch or micro_batch, or set parallel = "ddp"'
                )
        return self

    @property
    def micro_batches(self) -> int:
        """The number of micro-batches in a step."""
        return max(1, self.batch // self.micro_batch)

    @property
    def view(self) -> ViewSettings:
        """The settings of how an image is cut, resized, mirrored and coloured."""
        return ViewSettings(**{name: getattr(self, name) for name in ViewSettings.model_fields})

    @property
    def whole_size(self) -> int:
        """The longest side in pixels at which the network sees whole images after its training: that of a 4:3 image at
        its largest."""
        return min(self.image_size, round(max(self.shortest) * 4 / 3)) if self.shortest else self.image_size

    @property
    def lr_scale(self) -> float:
        """The factor of all learning rates that follows from `batch`."""
        return math.sqrt(self.batch / self.lr_for_batch) if self.lr_for_batch else 1.0

    def files(self) -> dict[str, Path]:
        """Returns the files whose content decides the outcome, by their role in keys. Raises `FatalError` when one is
        missing."""
        named = {"tokenizer": self.tokenizer, "initial": self.pretrained}
        files = {role: path for role, path in named.items() if path is not None}
        convert = "convert one with `rlip weights import` (docs/training_recipes.md)"
        for setting, path, way in (
            ("tokenizer", self.tokenizer, "remove tokenizer"),
            ("pretrained", self.pretrained, convert),
        ):
            if path is not None and not path.exists():
                raise FatalError(f"{setting} = {path}: no such file or folder; correct the path, or {way}")
        if self.pretrained is not None and self.tokenizer is None:
            files |= tokenizer_of(self.pretrained, None, f"pretrained = {self.pretrained}", "tokenizer")
        elif self.tokenizer is None and (kind := self.network.text.kind) != "roberta":
            raise FatalError(f"tokenizer: none can be made for network.text.kind = {kind!r}; name the folder of one")
        return files


def fold_of(dataset: str, image_id: int, folds: int) -> int:
    """Returns which of the taggers never sees an image. It depends on nothing else: adding images moves none to another
    tagger."""
    return int(held_out_place(dataset, image_id) * folds)


def held_out_place(dataset: str, image_id: int) -> float:
    """Returns a number in [0, 1), from a hash of dataset and image id."""
    return stable_seed("held out", dataset, image_id) / 2**63


CALIBRATION = "calibration.json"
"""File next to the weights of a tagger that maps its scores to probabilities."""
_RELEASED: dict[str, Any] = {"feedforward": 1024, "dropout": 0.1, "gate": "GLIP", "relation_queries": "vanilla"}
_TAGGER: dict[str, Any] = {"architecture": "parsed", "tagger": True}


class TaggerSettings(TrainingSettings):
    """Settings of the Relation Tagger's training run. By default, they differ from the released recipe in views and
    predicates."""

    kind: ClassVar[str] = "tagger"
    network_defaults: ClassVar[dict[str, Any]] = _RELEASED
    network_constants: ClassVar[dict[str, Any]] = _TAGGER
    network: NetworkConfig = NetworkConfig(**_RELEASED, **_TAGGER)
    """Network settings, as for pre-training. The architecture is always that of the tagger."""
    loss: LossSettings = LossSettings(localised_predicates=False)
    box_noise: float = Field(0.4, ge=0, le=1)
    """Box noise b: a box moves by up to b/2 of its size, and grows or shrinks by up to b of it."""
    label_noise: float = Field(0.2, ge=0, le=1)
    """Probability that a box's label is replaced by a random one."""
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of the images, by a hash of their ids, held out to measure and calibrate the tagger. 0: neither."""
    folds: int = Field(1, ge=1)
    """Number of taggers, each trained without its own share of the images instead of `held_out` (cross-fitting). Each
    image is labelled by the tagger that has not seen it."""
    fold: int = Field(0, ge=0)
    """Index of the tagger; set for each fold."""
    check_every: int = Field(1000, ge=1)
    """Steps between evaluations on some of the held-out images."""

    def holds_out(self, dataset: str, image_id: int) -> bool:
        """Whether this training never sees an image."""
        if self.folds > 1:
            return fold_of(dataset, image_id, self.folds) == self.fold
        return held_out_place(dataset, image_id) < self.held_out

    @property
    def held_out_share(self) -> float:
        """The expected share of images that this training never sees."""
        return 1 / self.folds if self.folds > 1 else self.held_out

    @field_validator("loss", mode="before")
    @classmethod
    def _to_loss(cls, values: Any) -> Any:
        """A table that states some settings leaves the others at the tagger's defaults."""
        return {"localised_predicates": False} | values if isinstance(values, dict) else values

    @field_validator("loss")
    @classmethod
    def _has_labels_alone(cls, loss: LossSettings) -> LossSettings:
        if loss.pseudo_predicates:
            raise ValueError("pseudo_predicates: a tagger's loss has no weaker targets; remove this setting")
        return loss

    @field_validator("evaluate_every")
    @classmethod
    def _is_for_pretraining(cls, value: int | None) -> int | None:
        if value is not None:
            raise ValueError(
                "a tagger is evaluated on its held-out images, every `check_every` steps; remove this setting"
            )
        return value
