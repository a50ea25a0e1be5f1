"""`rlip batch`: names the images of any step of a training run, and draws them as the network saw them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.cli.contact_sheet import contact_sheet, labelled_cell
from pipeline.cli.recorded_training import RecordedTraining
from pipeline.data.images.opening import BadImage
from pipeline.interop.shard_samples import SeenBox, SeenLabels, SeenRelation
from pipeline.report.formatting import sanitise
from pipeline.runtime.wording import counted
from pipeline.training.batches import Shown, StepImage, step_images
from pipeline.training.sample import TrainingSample
from storage.atomic import atomic_file
from storage.errors import FatalError, translate_os_errors
from storage.open_store import Address, existing_store
from storage.runs import find_run


def print_batch(
    root: Address, run_name: str, step: int, step_name: str | None, out: Path | None, as_json: bool
) -> None:
    """Print the images of a step, counted from 1, and draw them to the PNG `out`.

    Raises `FatalError` for a run without such a training run, a step that it did not have, or shards that are gone.
    """
    training = RecordedTraining.find(find_run(existing_store(root), run_name), step_name)
    if training.steps is not None and not 1 <= step <= training.steps:
        raise FatalError(
            f"{training.step_name} of run {run_name!r} has the steps 1 to {training.steps}, and no step {step}"
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
        raise FatalError("no image of this step can be read; `rlip verify` names what is damaged")
    with translate_os_errors(f"writing {out}"), atomic_file(out) as aside:
        contact_sheet(cells).save(aside, "PNG")
    return len(cells)


def _seen(labels: TrainingSample) -> SeenLabels:
    return SeenLabels(
        tuple(SeenBox(*box) for box in labels.boxes),
        tuple(SeenRelation(r.subject, r.object, r.predicate, r.confidence) for r in labels.relations),
        labels.width,
    )
