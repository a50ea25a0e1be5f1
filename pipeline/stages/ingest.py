"""Ingest: public annotation formats in, one checked row an image out; what is broken goes to quarantine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.datasets.fingerprint import fingerprint
from pipeline.datasets.open_source import open_source
from pipeline.datasets.record import ImageRecord
from pipeline.datasets.source import Source
from pipeline.datasets.validate import validate
from pipeline.images import BadImage, ImageLimits
from pipeline.settings import Settings, runtime
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from storage.cuts import extend_cut, load_cut, save_cut
from storage.digests import digest_json
from storage.tables import IMAGES


class IngestSettings(Settings):
    """How images and boxes are checked."""

    verify: Literal["decode", "header"] = "decode"
    """Decode every image, or trust its header (for millions of images on slow disks)."""
    fingerprint: Literal["bytes", "stat"] = "bytes"
    """What tells that an image file changed: its bytes, or its size and time (nothing is read)."""
    limits: ImageLimits = ImageLimits()
    sources: tuple[Source, ...] = runtime(())
    """Filled in from the recipe's data section."""


@dataclass(frozen=True)
class Partition:
    """A stored slice of a data set: about a thousand images, and the digest of all that ingest reads of them."""

    dataset: str
    index: int
    image_ids: tuple[int, ...]
    digest: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.index:04d}"


class IngestStage(Stage):
    """Images and boxes of one partition, validated."""

    name = "ingest"
    version = 1
    writes = "images"
    schema = IMAGES
    settings: IngestSettings

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Rows of the partition's images; what can't be used is rejected with its reason."""
        dataset = inputs.partition.split("/")[0]
        (source,) = [source for source in self.settings.sources if source.name == dataset]
        records, lost = _read(source)
        rows: list[dict[str, Any]] = []
        # What became no record belongs to no partition; it is told once, with the first.
        rejected = list(lost) if inputs.partition.endswith("/0000") else []
        for done, image_id in enumerate(inputs.image_ids):
            record, reasons = validate(records[image_id], self.settings.limits, self.settings.verify)
            rejected += reasons
            if record is not None:
                rows.append(_row(record, fingerprint(record, self.settings.fingerprint), source))
            report(done + 1, len(inputs.image_ids))
        return Output(pa.Table.from_pylist(rows, schema=IMAGES), rejected=rejected, rows_in=len(inputs.image_ids))


def cut_dataset(source: Source, size: int, settings: IngestSettings, store: Path) -> Iterator[Partition]:
    """The partitions of a data set: the stored cut, extended by new images; ids that left the set are left out."""
    records, rejects = _read(source)
    path = store / "cuts" / f"{source.name}.json"
    stored = load_cut(path)
    cut = extend_cut(stored, list(records), size)
    if cut != stored:
        save_cut(path, cut)
    lost = [[reject.image_id, reject.reason, reject.value] for reject in rejects]
    for index, image_ids in enumerate(cut):
        present = tuple(image_id for image_id in image_ids if image_id in records)
        described = [_described(records[image_id], settings) for image_id in present]
        yield Partition(source.name, index, present, digest_json([source.split, described, lost if index == 0 else []]))


@lru_cache(maxsize=4)
def _read(source: Source) -> tuple[Mapping[int, ImageRecord], list[Rejected]]:
    """The records of a source by image id, and what its reader left out; read once a process."""
    reader = open_source(source)
    records = {record.image_id: record for record in reader.read()}
    return records, list(reader.rejects)


def _described(record: ImageRecord, settings: IngestSettings) -> list[Any]:
    """All that decides an image's row, as JSON: what the annotations say, and what tells that the file changed."""
    try:
        found = fingerprint(record, settings.fingerprint)
    except BadImage as bad:
        found = bad.reason
    boxes = [[str(value) for value in box] for box in record.boxes]
    rejects = [[reject.reason, reject.value] for reject in record.rejects]
    return [record.image_id, record.path.name, record.width, record.height, boxes, record.relations, rejects, found]


def _row(record: ImageRecord, digest: str, source: Source) -> dict[str, Any]:
    return {
        "dataset": record.dataset,
        "split": record.split,
        "image_id": record.image_id,
        "uri": record.path.relative_to(source.images).as_posix(),
        "digest": digest,
        "width": record.width,
        "height": record.height,
        "boxes": [box._asdict() for box in record.boxes],
        "relations": [relation._asdict() for relation in record.relations],
    }
