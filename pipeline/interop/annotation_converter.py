"""Converts annotation files of one public format to another, without a run and without images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.data.datasets.source import annotation_source
from pipeline.interop.annotation_images import AnnotationImages
from pipeline.interop.hico_writer import write_hico_annotations
from pipeline.interop.run_rows import Tally
from pipeline.interop.vcoco_writer import write_vcoco_annotations
from pipeline.interop.visual_genome_writer import write_visual_genome_annotations
from storage.atomic import atomic_folder
from storage.errors import FatalError

TARGETS: dict[str, Callable[[AnnotationImages, Path], None]] = {
    "hico_det": write_hico_annotations,
    "vcoco": write_vcoco_annotations,
    "visual_genome": write_visual_genome_annotations,
}
"""The formats that are written. HOI-A has the layout of `hico_det`."""


def convert_annotations(
    source_format: str, annotations: Path, target_format: str, out: Path, files: Mapping[str, Path] | None = None
) -> Tally:
    """Writes annotations in the layout of `target_format` to the new folder `out`. Returns what was written and lost.

    `hico_det`: annotations.json, verbs.json, objects.json. `vcoco`: vcoco.json, instances.json. `visual_genome`:
    relationships.json, objects.json, image_data.json. Our readers read all of them. `files`: further files of the source by
    field. Raises `FatalError` for files that can't be used, an unknown format, and an `out` that exists.
    """
    if target_format not in TARGETS:
        raise FatalError(f"no target format {target_format!r}; the formats are {', '.join(TARGETS)}")
    if out.exists():
        raise FatalError(f"{out}: exists already; name a new folder, or remove it")
    source = annotation_source(source_format, annotations, files or {})
    if not source.missing_files() and (unreadable := source.unreadable()):
        raise FatalError(f"annotations ({source_format}): {'; '.join(unreadable)}")
    tally = Tally()
    images = AnnotationImages(source, tally)
    with atomic_folder(out, replace=False) as folder:
        TARGETS[target_format](images, folder)
    return tally
