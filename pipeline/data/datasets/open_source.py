"""From a source's settings to its reader."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.datasets.annotations import AnnotationError
from pipeline.data.datasets.coco import CocoReader
from pipeline.data.datasets.hico_det import HicoDetReader
from pipeline.data.datasets.objects365 import Objects365Reader
from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.source import Format, Source
from pipeline.data.datasets.visual_genome import VisualGenomeReader

_READERS: dict[Format, type[Reader]] = {
    "coco": CocoReader,
    "objects365": Objects365Reader,
    "visual_genome": VisualGenomeReader,
    "hico_det": HicoDetReader,
}


def open_source(source: Source, scratch: Path | None = None) -> Reader:
    """The reader of a source whose folder and files exist. Raises `AnnotationError` that names what is missing."""
    lacking = source.missing()
    if lacking:
        raise AnnotationError(f"data set {source.name!r} ({source.format}): " + "; ".join(lacking))
    return _READERS[source.format](source, scratch)
