"""Rehearses a recipe's training on this node before it runs for days: short runs, on synthetic shards.

A run has `STEPS` steps to warm up and as many that are measured, of one micro-batch for each process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import torch
from pydantic import ValidationError

from models.deformable_read_triton import OFF
from pipeline.report.formatting import bytes_in_words
from pipeline.run.context import RunContext
from pipeline.run.device_outcome import (
    MOST_WAITING,
    NEAR_BF16,
    REPORT,
    Absent,
    Check,
    CheckOutcome,
    is_gpu,
    without_kernels,
)
from pipeline.run.doctor import require_readable
from pipeline.run.estimate import REHEARSAL, estimate, with_trainings
from pipeline.run.networks import networks
from pipeline.run.planner import Planner
from pipeline.run.prepare import read_annotations
from pipeline.run.recipe_files import RecipeValues
from pipeline.run.rehearsal_shards import SIZES, Sizes, write_synthetic_shard
from pipeline.run.rehearsal_worker import DIES, MEASURED
from pipeline.runtime.devices import choose_device
from pipeline.runtime.settings import toml_value
from pipeline.training.config import CHECKPOINTS, MODEL, Shard, Summary, TrainConfig
from pipeline.training.launch.launcher import launch, prepare
from pipeline.training.settings import TaggerSettings, TrainingSettings
from storage.digests import digest_file
from storage.errors import FatalError, PipelineError
from storage.runs import Run

WORKER = "pipeline.run.rehearsal_worker"
STEPS = 20
LONG = 200
"""Steps after which fragmentation of memory is measured."""
MOST_RESERVED = 1.25
"""Maximum ratio of the memory that a run reserves to the most that it had allocated."""
GAIN = 1.03
"""Minimum speed-up for which a setting is recommended; less may be chance."""
TUNED = ("precision", "activation_checkpointing", "micro_batch", "num_workers", "deterministic")


@dataclass(frozen=True)
class Ran:
    """A finished training run, and its measurements."""

    changes: Mapping[str, Any]
    """Settings in which it differs from the recipe."""
    summary: Summary
    tracked: Mapping[str, float]
    """Its last values for trackers: images_per_second, memory_gib, data_wait, loss and others."""
    measured: Mapping[str, Any]
    """The content of `MEASURED`."""
    weights: str
    """Digest of the trained weights."""
    checkpoint_bytes: int

    @property
    def speed(self) -> float:
        """Images a second of all processes."""
        return self.tracked["images_per_second"]

    def __str__(self) -> str:
        reserved = self.measured["reserved_gib"]
        fragments = f" of {reserved:.3g} reserved" if reserved else ""
        return f"{self.speed:.3g} images/s, {self.tracked['memory_gib']:.3g} GiB{fragments}"


class Rehearsal:
    """The lines of a rehearsal of a recipe's last training run. They build on each other."""

    def __init__(self, context: RunContext, read: RecipeValues, out: Path, folder: Path) -> None:
        """`read`: the recipe's values; `out`: the recipe to write; `folder`: an empty one for shards and training runs.

        Raises `FatalError` when the recipe trains nothing, or `out` exists.
        """
        trained = [step for step in context.steps if isinstance(step.settings, TrainingSettings)]
        if not trained:
            raise FatalError(f"recipe {context.recipe.name!r} has no training run to rehearse")
        if out.exists():
            raise FatalError(f"--out {out} exists; name a new file")
        self._context, self._read, self._out, self._folder = context, read, out, folder
        self._stage, self._settings = trained[-1].stage.name, _without_missing_files(trained[-1].settings)
        self.device = choose_device(self._settings.device)
        self._shards: dict[Sizes, Shard] = {}
        self._first: Ran | None = None
        self._best: Ran | None = None
        self._repeats = True
        """Whether the same settings gave the same weights again."""

    @property
    def checks(self) -> Mapping[str, Check]:
        """Name of a line → what it does."""
        variants = _variants(self._settings, self.device)
        return {
            "weights": self._weights,
            "as it is": self._as_it_is,
            "equal bits": self._again,
            "a rank dies": self._killed,
            **{f"{name} = {json.dumps(value)}": partial(self._variant, name, value) for name, value in variants},
            "grid_sample": self._plainly,
            "fragmentation": self._fragmented,
            "largest view": self._largest,
            "the whole recipe": self._whole,
            "the best recipe": self._write,
        }

    def _weights(self, device: torch.device) -> CheckOutcome:
        found = [each for each in networks(self._context) if each.what.startswith(self._stage)]
        missing = [each.detail for each in found if each.state == "missing"]
        if missing:
            return CheckOutcome("; ".join(missing), "failed", "runs below start from random weights")
        return CheckOutcome("; ".join(each.detail for each in found))

    def _as_it_is(self, device: torch.device) -> CheckOutcome:
        self._first = self._best = ran = self._run({})
        values, parts = ran.tracked, ran.measured["parts"]
        figure = f"{ran}, MFU {values['mfu']:.1%}, " if "mfu" in values else f"{ran}, "
        figure += (
            f"{values['padding']:.0%} of pixels are padding, "
            f"{values['data_wait']:.1%} of the time spent waiting for data; "
        )
        figure += ", ".join(f"{part} {seconds / sum(parts.values()):.0%}" for part, seconds in parts.items())
        figure += "".join(
            f"; {waits / STEPS:g} waits per step at {line}" for line, waits in ran.measured["waits"].items()
        )
        return CheckOutcome(figure).unless(values["data_wait"] <= MOST_WAITING, "slow", "raise num_workers")

    def _again(self, device: torch.device) -> CheckOutcome:
        ran = self._run({"checkpoint_every": STEPS})
        seconds, size = ran.summary.checkpoint_wait / 2, bytes_in_words(ran.checkpoint_bytes / 2)
        figure = f"after {2 * STEPS} steps; {seconds:.2g} s for a checkpoint of {size}"
        self._repeats = ran.weights == self._needed.weights
        outcome = CheckOutcome(f"{'the same' if self._repeats else 'different'} weights {figure}")
        return outcome.unless(self._repeats, "wrong", f"resumed runs will differ in low-order bits; {REPORT}")

    def _killed(self, device: torch.device) -> CheckOutcome:
        ran = self._run({"checkpoint_every": STEPS // 2, "restarts": 1}, dies_after=STEPS)
        figure = f"killed after step {STEPS}, resumed from step {ran.summary.resumed_from}"
        if not ran.summary.resumed_from:
            return CheckOutcome(figure, "wrong", f"its checkpoint was lost; {REPORT}")
        if not self._repeats:
            return CheckOutcome(f"{figure}; weights are not compared, since they differ without it too")
        is_same = ran.weights == self._needed.weights
        figure += f", {'the same' if is_same else 'different'} weights at the end"
        return CheckOutcome(figure).unless(is_same, "wrong", REPORT)

    def _variant(self, name: str, value: Any, device: torch.device) -> CheckOutcome:
        """Tries a setting on top of the best ones, and adds it to them if it is faster."""
        try:
            ran = self._run({**self._best_changes, name: value})
        except FatalError as error:
            if "out of memory" not in str(error):
                raise
            raise Absent(str(error)) from error
        figure = self._beside(ran)
        if name == "precision":
            figure += f"; the loss differs by {self._far(ran):.2%}"
            if not self._far(ran) <= NEAR_BF16:
                return CheckOutcome(figure, "wrong", f"choose a different precision, and {REPORT}")
        if self._best is None or ran.speed > GAIN * self._best.speed:
            self._best = ran
        return CheckOutcome(figure)

    def _plainly(self, device: torch.device) -> CheckOutcome:
        if not is_gpu(device):
            raise Absent("CPUs don't use Triton")
        with without_kernels():
            ran = self._run(self._best_changes)
        figure, is_near = f"{self._beside(ran)}; the loss differs by {self._far(ran):.2%}", self._far(ran) <= NEAR_BF16
        is_slower = ran.speed <= GAIN * (self._best or self._needed).speed
        advice = f"set {OFF} in the environment, and {REPORT}"
        return CheckOutcome(figure).unless(is_near, "wrong", advice).unless(is_slower, "slow", advice)

    def _fragmented(self, device: torch.device) -> CheckOutcome:
        """Trains for longer, on views of changing sizes, which fragment the memory."""
        if not is_gpu(device):
            raise Absent("not measured: PyTorch counts the memory of GPUs only")
        ran = self._run({**self._best_changes, "steps": LONG})
        figure, allocated = f"{ran} after {LONG} steps", ran.tracked["memory_gib"]
        is_whole = ran.measured["reserved_gib"] <= MOST_RESERVED * allocated
        advice = "set PYTORCH_ALLOC_CONF=expandable_segments:True in the environment"
        return CheckOutcome(figure).unless(is_whole, "slow", advice)

    def _largest(self, device: torch.device) -> CheckOutcome:
        """Trains on the largest views with the best settings, which are given up if that fails."""
        side = max(self._settings.shortest, default=self._settings.image_size)
        view = {"shortest": self._settings.shortest and (side,), "crop": 0.0, "smallest": 1.0}
        size = (640, 640 * min(side, self._settings.image_size) // self._settings.image_size)
        try:
            return CheckOutcome(str(self._run({**self._best_changes, **view}, sizes=(size,))))
        except PipelineError:
            self._best = self._first
            raise

    def _whole(self, device: torch.device) -> CheckOutcome:
        """Keeps the speed of the recipe as it is, then estimates its run."""
        self._keep(self._context.run, self._needed)
        try:
            require_readable(self._context)
            read_annotations(self._context, None)
        except (PipelineError, OSError) as error:
            raise Absent("the speed is kept for `rlip estimate`; data or weights are missing here") from error
        made = with_trainings(estimate(Planner(self._context), None, None, 1, None), self._context, None)
        hours = f"{made.hours:,.3g} process-hours" if made.gpu_hours is None else f"{made.gpu_hours:,.3g} GPU-hours"
        unknown = [step.step for step in made.steps if step.seconds is None]
        return CheckOutcome(f"{hours} as it is{', without ' if unknown else ''}{', '.join(unknown)}")

    def _write(self, device: torch.device) -> CheckOutcome:
        """Writes a recipe that extends this one with the best settings, and keeps its speed."""
        best = self._best or self._needed
        section = "pretrain.settings." if self._stage == "pretrain" else f"{self._stage}."
        given, tuned = self._read.overrides(), _with(self._settings, best.changes)
        own = {name.removeprefix(section): given.pop(name) for name in list(given) if name.startswith(section)}
        own |= {name: getattr(tuned, name) for name in TUNED}
        lines = [
            f"# rlip recipe rehearse {self._read.file}, {best.summary.processes} x {best.measured['device']}: {best}",
            *(
                f"# Rehearsed with --set {name}={toml_value(value)}, which this recipe leaves out."
                for name, value in given.items()
            ),
            f"extends = {toml_value(str(self._read.file.absolute()))}\n",
            f"[{section.rstrip('.')}]",
            *(f"{name} = {toml_value(value)}" for name, value in own.items()),
        ]
        self._out.write_text("\n".join(lines) + "\n")
        self._keep(Run(self._context.store, self._out.stem), best)
        return CheckOutcome(f"{self._out}: {best}" + (f"; as it is {self._first}" if self._first else ""))

    @property
    def _needed(self) -> Ran:
        if self._first is None:
            raise FatalError("the first run failed")
        return self._first

    @property
    def _best_changes(self) -> Mapping[str, Any]:
        return self._best.changes if self._best else {}

    def _beside(self, ran: Ran) -> str:
        return f"{ran}; before {self._best}" if self._best else str(ran)

    def _far(self, ran: Ran) -> float:
        """How far its loss is from that of the best run, as a share."""
        return abs(ran.tracked["loss"] / self._best.tracked["loss"] - 1) if self._best else 0.0

    def _keep(self, run: Run, ran: Ran) -> None:
        """Notes a speed for `rlip estimate`."""
        facts = {"images_per_second": ran.speed, "processes": ran.summary.processes, "device": ran.measured["device"]}
        facts["settings"] = _with(self._settings, ran.changes).row_settings()
        run.note(REHEARSAL, {**run.read_document(REHEARSAL), self._stage: facts})

    def _run(self, changes: Mapping[str, Any], *, sizes: Sizes = SIZES, dies_after: int | None = None) -> Ran:
        settings = _with(self._settings, {**_short(self._settings), **changes})
        settings = settings.model_copy(update={"batch": settings.micro_batch * settings.processes})
        if sizes not in self._shards:
            self._shards[sizes] = write_synthetic_shard(Path(mkdtemp(dir=self._folder)), settings, sizes)
        with TemporaryDirectory(dir=self._folder) as name:
            work, shards = Path(name), (self._shards[sizes],)
            tracking = work / "tracking"
            config = TrainConfig(settings=settings, work=work, tracking=tracking, shards=shards, worker=WORKER)
            prepare(config)
            if dies_after is not None:
                (work / DIES).write_text(str(dies_after))
            return _finished(config, changes, launch(config, lambda *_: None))


def _finished(config: TrainConfig, changes: Mapping[str, Any], summary: Summary) -> Ran:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # an extra of training

    events = EventAccumulator(str(config.tracking / "tensorboard"), purge_orphaned_data=False).Reload()
    return Ran(
        changes,
        summary,
        tracked={name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"]},
        measured=json.loads((config.work / MEASURED).read_bytes()),
        weights=digest_file(config.work / MODEL),
        checkpoint_bytes=sum(path.stat().st_size for path in (config.work / CHECKPOINTS).glob("*/*")),
    )


def _without_missing_files(settings: Any) -> TrainingSettings:
    """The same settings, or random weights where a file of the pretrained ones or a tokenizer is missing."""
    tokenizer = settings.tokenizer
    try:
        settings.files()
        changes = {}
    except FatalError:
        changes = {"pretrained": None, "tokenizer": tokenizer if tokenizer and tokenizer.exists() else None}
    return _with(settings, changes)


def _with(settings: TrainingSettings, changes: Mapping[str, Any]) -> TrainingSettings:
    return type(settings).model_validate({**dict(settings), **changes})


def _short(settings: TrainingSettings) -> dict[str, Any]:
    """The changes that turn the settings into those of a short run on this node."""
    changes: dict[str, Any] = {"steps": 2 * STEPS, "log_every": STEPS, "checkpoint_every": 2 * STEPS, "restarts": 0}
    changes |= {"nodes": 1, "min_nodes": None, "evaluate_every": None, "trackers": (), "stop_timeout": 10.0}
    changes |= {"mix": {}}  # its weights are those of other datasets than the synthetic one
    changes |= {"keep_checkpoints": 2, "milestone_every": None}  # the size of one is half of what the folder holds
    # In a run this short, slower ones would cause warnings.
    changes |= {"ema": min(settings.ema, 0.5), "warmup": min(settings.warmup, STEPS)}
    return changes | ({"held_out": 0.0, "folds": 1} if isinstance(settings, TaggerSettings) else {})


def _variants(settings: TrainingSettings, device: torch.device) -> list[tuple[str, Any]]:
    """Settings to try, in this order. A micro-batch is one that lets all processes share the batch."""
    sizes = [size for size in (2 * settings.micro_batch, settings.micro_batch // 2) if size]
    tried: list[tuple[str, Any]] = [
        ("precision", "tf32" if is_gpu(device) else "float32"),
        ("precision", "bfloat16"),
        ("activation_checkpointing", not settings.activation_checkpointing),
        *(("micro_batch", size) for size in sizes if settings.batch % size == 0 and _is_shared(settings, size)),
        ("num_workers", 2 * settings.num_workers or 4),
        *([] if settings.parallel == "tree" else [("deterministic", "fast")]),
    ]
    return [(name, value) for name, value in tried if value != getattr(settings, name)]


def _is_shared(settings: TrainingSettings, micro_batch: int) -> bool:
    """Whether the settings allow micro-batches of this size for their processes, on any number of nodes."""
    try:
        _with(settings, {"micro_batch": micro_batch})
    except ValidationError:
        return False
    return True
