"""Converts annotation files from any readable format to any writable one, without images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.data.datasets.reader import Reader
from pipeline.data.datasets.record_index import open_source
from pipeline.data.datasets.source import annotation_source
from pipeline.interop.export_run import Exported, export_run
from pipeline.interop.further_fields import further_fields
from pipeline.interop.import_file import PARTITION, ImportStep
from pipeline.interop.run_rows import NAMES, RunRows, Tally
from pipeline.runtime.plugins import load_plugin
from pipeline.stages.ingest import image_row
from storage.atomic import atomic_folder
from storage.errors import FatalError
from storage.local_store import LocalStore
from storage.runs import Run
from storage.tables import IMAGES

_UNREAD = {
    "open_images": "attributes of boxes, such as IsOccluded",
    "open_images_boxes": "attributes of boxes, such as IsOccluded",
    "vg150": "attributes of VG-SGG-with-attri.h5",
    "visual_genome": "synsets, merged_object_ids and addresses",
}
"""Format → what its files may state and its reader does not read."""


def convert_annotations(
    source_format: str,
    annotations: Path,
    target_format: str,
    out: Path,
    files: Mapping[str, Path] | None = None,
    split: str = "train",
    masks: Path | None = None,
) -> Exported:
    """Writes annotations to the new folder `out`, as an export of a run that holds nothing else.

    `files`: further source files, by field. `split`: which one of a file of several (VG150, PSG); of other files, its
    name. `masks`: the folder of the PNGs that PSG and COCO panoptic name. Returns what was written and lost. Raises
    `FatalError` for unusable files, an unknown format, boxes that are shares of images of unknown size, and an existing
    `out`.
    """
    write = load_plugin("exports", target_format)
    if out.exists():
        raise FatalError(f"{out} already exists; name a new folder, or remove it")
    source = annotation_source(source_format, annotations, files or {}).model_copy(update={"split": split})
    if not source.missing_files() and (unreadable := source.unreadable()):
        raise FatalError(f"annotations ({source_format}): {'; '.join(unreadable)}")
    tally = Tally()
    with TemporaryDirectory() as scratch, atomic_folder(out, replace=False) as folder:
        run = _run_of(open_source(source, with_images=False), Path(scratch, "store"), tally)
        whole = Path(scratch, "export")
        if not hasattr(write, "keeps_fields"):
            for field, count in further_fields(RunRows(run), source.name, tally).counts.items():
                tally.note(f"field {field}", count)
        made = export_run(run, target_format, whole, masks=masks)
        # Most exports write a folder for each dataset; here there is only one.
        for path in (whole / source.name if (whole / source.name).is_dir() else whole).iterdir():
            shutil.move(path, folder / path.name)
        made.files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    tally.counts.update(made.lost)
    if source_format in _UNREAD:
        tally.note(f"image whose {_UNREAD[source_format]} are never read", made.wrote.get("images", 1))
    made.folder, made.lost = str(out), tally.as_json()
    return made


def _run_of(reader: Reader, store: Path, tally: Tally) -> Run:
    """A run whose step `ingest` holds what the annotation files state, whatever the images are."""
    source = reader.source
    run = Run(LocalStore(store), source.name)
    step, number, records = ImportStep(run, "ingest", "images", IMAGES), 0, reader.annotations()
    while part := list(islice(records, PARTITION)):
        # Open Images states boxes as shares. Without sizes, its reader takes images for single pixels.
        if any((record.width, record.height) == (1, 1) for record in part):
            raise FatalError(
                f"{source.annotations}: boxes are shares of images of unknown size; add --file image_data=FILE, "
                "a file with images' sizes"
            )
        step.put(f"{source.name}/{number:06d}", [image_row(record, source) for record in part], ())
        number += 1
        for record in part:
            tally.note_all(record.rejects)
    tally.note_all(reader.rejects)
    if not step.record():
        raise FatalError(f"{source.annotations}: no usable image ({'; '.join(tally.counts) or 'it lists none'})")
    run.note("recipe", {"data": {"sources": [source.model_dump(mode="json")]}})
    run.note(NAMES, {"objects": reader.objects, "predicates": reader.predicates})
    return run
