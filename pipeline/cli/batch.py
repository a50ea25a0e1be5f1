"""`rlip shards batch`: names the images of any step of a training run, and draws them as the network saw them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from PIL import Image
from pydantic import ValidationError

from pipeline.cli.contact_sheet import contact_sheet, labelled_cell
from pipeline.cli.options import STORE, AsJson, RunName, StorePath
from pipeline.data.images.opening import BadImage
from pipeline.interop.shard_samples import SeenLabels, SeenRelation
from pipeline.report.formatting import sanitise
from pipeline.runtime.wording import counted
from pipeline.stages.pretrain import PretrainStage, TrainTaggerStage
from pipeline.training.config import SAMPLES, TrainConfig
from pipeline.training.sample import TrainingSample
from pipeline.training.settings import TaggerSettings, TrainingSettings
from storage.artifact import Artifact
from storage.atomic import atomic_file
from storage.errors import FatalError, translate_os_errors
from storage.open_store import existing_store
from storage.runs import Run, find_run
from storage.shards.sample_map import SampleMap

if TYPE_CHECKING:
    from pipeline.training.batches import Shown, StepImage
    from pipeline.training.shards import ShardSamples

_VERSIONS = {stage.name: stage.version for stage in (PretrainStage, TrainTaggerStage)}


def batch(
    run_name: RunName,
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="A step of the training, counted from 1.")],
    step_name: Annotated[
        str | None,
        typer.Option("--step-name", help="E.g. pretrain:pseudo or train_tagger; required if there are several."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the images to this PNG file.")] = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Name the images of a training step, and draw them as the network saw them, with their boxes and relations."""
    from pipeline.training.batches import step_images  # loads torch

    training = RecordedTraining.find(find_run(existing_store(store), run_name), step_name)
    if training.steps is not None and not 1 <= step <= training.steps:
        raise FatalError(
            f"{training.step_name} of run {run_name!r} has steps 1 to {training.steps}, but no step {step}"
        )
    with training.samples() as samples:
        images = step_images(samples, training.settings, step)
    drawn = _draw(images, out) if out is not None else 0
    if as_json:
        print(json.dumps(_values(training, step, images, out), ensure_ascii=False))
        return
    of = f" of {training.steps:,}" if training.steps is not None else ""
    print(
        f"Step {step:,}{of} of {training.step_name}, run {run_name}: {counted(len(images), 'image')}{_batch_size(images)}"
    )
    for image in images:
        print(f"  {sanitise(image.dataset)}/{image.image_id}: {_in_words(image, training)}")
    if out is not None:
        print(f"{counted(drawn, 'image')} drawn to {out}")


def _batch_size(images: Sequence[StepImage]) -> str:
    """The size of the batch that one process would make of all images, and the share of it that is padding."""
    views = [image.shown.view for image in images if image.shown]
    if not views:
        return ""
    width, height = max(view.width for view in views), max(view.height for view in views)
    padding = 1 - sum(view.width * view.height for view in views) / (width * height * len(views))
    return f", at most {width}x{height} pixels, {padding:.0%} padding"


def _in_words(image: StepImage, training: RecordedTraining) -> str:
    if image.key in training.left_out:
        return f"left out: {sanitise(training.left_out[image.key])}"
    if image.shown is None:
        return f"can't be read: {sanitise(image.damage)}"
    view, labels = image.shown.view, image.shown.labels
    parts = [
        f"{view.width}x{view.height} pixels",
        *(["a part"] if view.crop else []),
        *(["mirrored"] if view.mirrored else []),
        f"{len(labels.boxes):,} {'box' if len(labels.boxes) == 1 else 'boxes'}",
        counted(len(labels.relations), "relation"),
    ]
    return f"{', '.join(parts)} (epoch {image.epoch + 1})"


def _values(training: RecordedTraining, step: int, images: Sequence[StepImage], out: Path | None) -> dict[str, Any]:
    return {
        "run": training.run.name,
        "step_name": training.step_name,
        "step": step,
        "steps": training.steps,
        "drawn": None if out is None else str(out),
        "images": [
            {
                "dataset": image.dataset,
                "image_id": image.image_id,
                "key": image.key,
                "tar": image.tar,
                "epoch": image.epoch + 1,
                "left_out": training.left_out.get(image.key),
                "damage": image.damage or None,
                **(_shown(image.shown) if image.shown else {}),
            }
            for image in images
        ],
    }


def _shown(shown: Shown) -> dict[str, Any]:
    view = shown.view
    return {
        "width": view.width,
        "height": view.height,
        "crop": view.crop._asdict() if view.crop else None,
        "mirrored": view.mirrored,
        "boxes": len(shown.labels.boxes),
        "relations": len(shown.labels.relations),
    }


def _draw(images: Sequence[StepImage], out: Path) -> int:
    """Draws the images that can be read, and returns how many. Raises `FatalError` when none can."""
    cells = []
    for image in images:
        if image.shown is None:
            continue
        try:
            pixels = Image.fromarray(image.shown.pixels().permute(1, 2, 0).numpy())
        except BadImage:
            continue
        title = f"{sanitise(image.dataset, 40)}/{image.image_id}  {pixels.width}x{pixels.height}"
        cells.append(labelled_cell(title, pixels, _seen(image.shown.labels)))
    if not cells:
        raise FatalError("no image of this step can be read; `rlip store verify` names the damage")
    with translate_os_errors(f"writing {out}"), atomic_file(out) as aside:
        contact_sheet(cells).save(aside, "PNG")
    return len(cells)


def _seen(labels: TrainingSample) -> SeenLabels:
    return SeenLabels(
        labels.boxes,
        tuple(SeenRelation(r.subject, r.object, r.predicate, r.confidence) for r in labels.relations),
        labels.width,
    )


@dataclass(frozen=True)
class RecordedTraining:
    """A training run that a run has finished."""

    run: Run
    step_name: str
    """The step of the run, e.g. pretrain:pseudo."""
    settings: TrainingSettings
    shards: tuple[Artifact, ...]
    facts: Mapping[str, Any]

    @classmethod
    def find(cls, run: Run, step_name: str | None) -> RecordedTraining:
        """Finds a training by its step's name; None: the only one. Raises `FatalError` that lists those of the run."""
        name = step_name if step_name is not None else _only_one(run)
        artifact = next(iter(run.artifacts(name).values()), None)
        if artifact is None or run.stage(name) not in _VERSIONS:
            raise FatalError(f"run {run.name!r} has no training {name!r}; its training runs: {_listed(run)}")
        terms = artifact.manifest.terms
        if terms["version"] != _VERSIONS[run.stage(name)]:
            raise FatalError(
                f"{name} of run {run.name!r} was trained by version {terms['version']} of its stage, but this one is "
                f"version {_VERSIONS[run.stage(name)]}, which orders images differently; use the rlip that trained it"
            )
        model = TaggerSettings if run.stage(name) == TrainTaggerStage.name else TrainingSettings
        try:
            # Keys leave out the number of processes, and one process can share any batch.
            settings = model.model_validate({"processes": 1, **terms["settings"]})
        except ValidationError as error:
            raise FatalError(f"{name} of run {run.name!r} has settings of another version: {error}") from error
        return cls(run, name, settings, _shards(run, artifact), artifact.manifest.facts)

    @property
    def steps(self) -> int | None:
        """The number of its steps; None where it was not recorded."""
        steps = self.facts.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def left_out(self) -> Mapping[str, str]:
        """Key → reason, of the samples that were left out because they were damaged."""
        damaged = self.facts.get("damaged")
        return damaged if isinstance(damaged, dict) else {}

    @contextmanager
    def samples(self) -> Iterator[ShardSamples]:
        """Opens the training set. Raises `FatalError` when its shards are missing."""
        from pipeline.training.shards import ShardSamples, map_samples, range_cache, shards_of

        kind: Literal["pretrain", "tagger"] = "tagger" if isinstance(self.settings, TaggerSettings) else "pretrain"
        with TemporaryDirectory(prefix="rlip-") as folder:
            work = Path(folder)
            config = TrainConfig(kind=kind, settings=self.settings, work=work, shards=tuple(shards_of(self.shards)))
            map_samples(config)
            opened = SampleMap(work / SAMPLES)
            yield ShardSamples(opened, range_cache(config), self.settings.predicate_form)


def _shards(run: Run, artifact: Artifact) -> tuple[Artifact, ...]:
    """The shards that a training read, in its order."""
    keys = artifact.manifest.upstream.get("shards", [])
    shards: dict[str, Artifact] = {}
    for stage in ("shard", "shard_tagger"):
        shards |= run.store.find_all(stage, [key for key in keys if key not in shards])
    gone = [key[:12] for key in keys if key not in shards]
    if gone:
        raise FatalError(
            f"{len(gone)} of {len(keys)} shards that training read are missing ({', '.join(gone[:5])}); "
            "run the recipe again"
        )
    return tuple(shards[key] for key in keys)


def _only_one(run: Run) -> str:
    trainings = _trainings(run)
    if len(trainings) != 1:
        raise FatalError(
            f"run {run.name!r} has {len(trainings)} training runs; name one with --step-name, of: {_listed(run)}"
        )
    return trainings[0]


def _trainings(run: Run) -> list[str]:
    return sorted(name for name in run.steps() if run.stage(name) in _VERSIONS)


def _listed(run: Run) -> str:
    return ", ".join(_trainings(run)) or "none"
