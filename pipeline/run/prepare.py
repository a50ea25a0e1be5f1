"""Prepares a run: checks its requirements, writes the synthetic world if the recipe has one, and sweeps the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.captioning.recorded import RecordedCaptioner
from pipeline.data.datasets.record_index import is_indexed, open_index
from pipeline.data.datasets.source import DataSource
from pipeline.data.datasets.validate import box_doubts
from pipeline.run.context import RunContext
from pipeline.run.doctor import precisions, require, usual_texts
from pipeline.run.progress import Display
from pipeline.run.recipe_files import recorded_recipe
from pipeline.runtime.logs import log
from pipeline.runtime.processes import preload
from pipeline.stages.caption import CaptionStage
from scenes.settings import SceneSettings
from storage.errors import FatalError
from storage.runs import STARTED


def prepare(context: RunContext, display: Display) -> None:
    """Check what the recipe needs, write scenes, read new annotations, remove what dead writers left, keep old history.

    Other images under the run's name, boxes that look wrong, precisions that the device lacks, and a tagger without its
    usual texts are reported to the display. Raises `FatalError` before any work.
    """
    display.busy("checking data, weights and networks")
    # Once for all workers, and before a check forks the first process
    for step in context.computed:
        preload((step.stage.__module__, *step.stage(step.settings).imports()))
    require(context)
    if doubt := other_folders(context):
        display.warn(doubt)
    for finding in usual_texts(context):
        display.warn(f"{finding.what}: {finding.detail}")
    if context.recipe.scenes is not None:
        write_world(context.recipe.data.root, context.recipe.scenes, display.drawing)
    read_annotations(context, display.reading)
    indexes = context.resolved.ingest.indexes
    for source in context.sources:
        if source.has_boxes and (doubts := box_doubts(f"dataset {source.name}", open_index(source, indexes))):
            display.warn(doubts)
    captioning = context.resolved.caption
    if captioning.captioner == "recorded" and any(step.stage is CaptionStage for step in context.steps):
        labelled = [source for source in context.sources if source.name in context.recipe.data.label]
        RecordedCaptioner(captioning).require_fit({source.name: _files(source, indexes) for source in labelled})
    for finding in precisions(context):
        fields = {"step": finding.what.partition(" ")[0], "precision": finding.detail}
        log.info("precision", extra={"fields": fields})
        if finding.state == "note":
            display.warn(f"{finding.what}: {finding.detail}")
    context.store.sweep()
    context.run.adopt()
    context.is_prepared = True
    # The review page and others look at a run before it has completed, and need its recipe.
    started = context.recipe.model_dump(mode="json")
    started["data"]["root"] = str(context.recipe.data.root.resolve())  # the next one may start in another folder
    context.run.note(STARTED, started)


def _files(source: DataSource, indexes: Path | None) -> Iterator[tuple[int, str]]:
    """Image ids with the addresses of the images' files."""
    return ((image_id, f"{source.images}/{name}") for image_id, name in open_index(source, indexes).names())


def other_folders(context: RunContext) -> str:
    """A warning if the run's last execution read none of this one's folders of images; "" otherwise."""
    with suppress(FatalError, OSError):  # the recipe of another version; a folder of somebody else
        if (before := recorded_recipe(context.run, STARTED)) is not None:
            each_run = (map(str, each.resolved().data.image_folders().values()) for each in (before, context.recipe))
            old, new = ({at if "://" in at else str(Path(at).resolve()) for at in folders} for folders in each_run)
            # From a folder that is gone, the images may have moved here.
            if old.isdisjoint(new) and any("://" in at or Path(at).exists() for at in old):
                return (
                    f"run {context.run.name} was last made from the images in {', '.join(sorted(old))}, and is now "
                    f"made from those in {', '.join(sorted(new))}; to keep both results, rename one (`name` in the "
                    "recipe, --as of rlip label)"
                )
    return ""


def read_annotations(context: RunContext, reading: Callable[[str, float], None] | None) -> None:
    """Parse the annotations that the steps need, unless they were parsed before. Raises `AnnotationError`."""
    indexes = context.resolved.ingest.indexes
    for source in context.sources:
        if not is_indexed(source, indexes):
            open_index(source, indexes, None if reading is None else partial(reading, source.name))


def write_world(root: Path, settings: SceneSettings, progress: Callable[[int, int], None] | None) -> None:
    """Write the synthetic world unless it exists. Raises `FatalError` if `root` is unwritable or holds other files."""
    from scenes.dataset import write_scenes

    try:
        write_scenes(root, settings, progress)
    except OSError as error:
        raise FatalError(
            f"data.root = {root}: can't write the synthetic world: {error}; choose another folder"
        ) from error
