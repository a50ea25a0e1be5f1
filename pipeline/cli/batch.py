"""`rlip shards batch`: names the images of any step of a training run, and draws them as the network saw them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

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
    run = find_run(existing_store(store), run_name)
    name, artifact = _training(run, step_name)
    # Trainings of earlier versions recorded neither the number of steps nor which samples were left out as damaged.
    steps, left_out = artifact.manifest.facts.get("steps"), artifact.manifest.facts.get("damaged", {})
    if steps is not None and not 1 <= step <= steps:
        raise FatalError(f"{name} of run {run_name!r} has steps 1 to {steps}, but no step {step}")
    images = _images(run, name, artifact, step)
    drawn = _draw(images, out) if out is not None else 0
    if as_json:
        values = {"run": run.name, "step_name": name, "step": step, "steps": steps}
        values |= {"drawn": None if out is None else str(out), "images": [_values(each, left_out) for each in images]}
        print(json.dumps(values, ensure_ascii=False))
        return
    of = f" of {steps:,}" if steps is not None else ""
    print(f"Step {step:,}{of} of {name}, run {run_name}: {counted(len(images), 'image')}{_batch_size(images)}")
    for image in images:
        print(f"  {sanitise(image.dataset)}/{image.image_id}: {_in_words(image, left_out)}")
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


def _in_words(image: StepImage, left_out: Mapping[str, str]) -> str:
    if image.key in left_out:
        return f"left out: {sanitise(left_out[image.key])}"
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


def _values(image: StepImage, left_out: Mapping[str, str]) -> dict[str, Any]:
    return {
        "dataset": image.dataset,
        "image_id": image.image_id,
        "key": image.key,
        "tar": image.tar,
        "epoch": image.epoch + 1,
        "left_out": left_out.get(image.key),
        "damage": image.damage or None,
        **(_shown(image.shown) if image.shown else {}),
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


def _training(run: Run, step_name: str | None) -> tuple[str, Artifact]:
    """The name and artifact of a training step; without a name, of the only one.

    Raises `FatalError` that lists those of the run.
    """
    name = step_name if step_name is not None else _only_one(run)
    artifact = next(iter(run.artifacts(name).values()), None)
    if artifact is None or run.stage(name) not in _VERSIONS:
        raise FatalError(f"run {run.name!r} has no training {name!r}; its training runs: {_listed(run)}")
    version = artifact.manifest.terms["version"]
    if version != _VERSIONS[run.stage(name)]:
        raise FatalError(
            f"{name} of run {run.name!r} was trained by version {version} of its stage, but this one is "
            f"version {_VERSIONS[run.stage(name)]}, which orders images differently; use the rlip that trained it"
        )
    return name, artifact


def _images(run: Run, name: str, artifact: Artifact, step: int) -> list[StepImage]:
    """The images of a training's step. Raises `FatalError` when its shards are missing."""
    from pipeline.training.batches import step_images  # loads torch
    from pipeline.training.shards import ShardSamples, map_samples, range_cache, shards_of

    kind = TaggerSettings if run.stage(name) == TrainTaggerStage.name else TrainingSettings
    try:
        # Keys leave out the number of processes, and one process can share any batch.
        settings = kind.model_validate({"processes": 1, **artifact.manifest.terms["settings"]})
    except ValidationError as error:
        raise FatalError(f"{name} of run {run.name!r} has settings of another version: {error}") from error
    shards = tuple(shards_of(_shards(run, artifact)))
    with TemporaryDirectory(prefix="rlip-") as folder:
        config = TrainConfig(settings=settings, work=Path(folder), shards=shards)
        map_samples(config)
        samples = ShardSamples(SampleMap(config.work / SAMPLES), range_cache(config), settings.predicate_form)
        return step_images(samples, settings, step)


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
