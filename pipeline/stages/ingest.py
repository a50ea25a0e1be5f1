"""Ingest: public annotation formats in, one checked row an image out; what is broken goes to quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.data.datasets.record import ImageRecord
from pipeline.data.datasets.record_index import RecordIndex, open_index
from pipeline.data.datasets.source import Source
from pipeline.data.datasets.validate import validate
from pipeline.data.images.folders import open_folder
from pipeline.data.images.opening import BadImage, ImageLimits, fingerprint, read_bytes
from pipeline.data.images.refs import uri_of
from pipeline.data.partitioning import PartitionDigests, cut_bytes, extend_cut, load_cut
from pipeline.runtime.settings import Settings, runtime
from pipeline.runtime.stage import Inputs, Output, Report, Stage
from storage.digests import digest_json
from storage.store import Store
from storage.tables import IMAGES


class IngestSettings(Settings):
    """How images and boxes are checked."""

    verify: Literal["decode", "header"] = "decode"
    """Decode every image, or trust its header (for millions of images on slow disks)."""
    fingerprint: Literal["bytes", "stat"] = "bytes"
    """What tells that an image file changed: its bytes (read again when size, times or inode differ), or size and time."""
    limits: ImageLimits = ImageLimits()
    indexes: Path | None = runtime(None)
    """Where parsed annotations are kept, in the store unless set here; None: made anew by each process."""
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
    version = 2
    writes = "images"
    schema = IMAGES
    settings: IngestSettings

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Rows of the partition's images; what can't be used is rejected with its reason."""
        dataset = inputs.partition.split("/")[0]
        (source,) = [source for source in self.settings.sources if source.name == dataset]
        index = _index(source, self.settings.indexes)
        rows: list[dict[str, Any]] = []
        # What became no record belongs to no partition; it is told once, with the first.
        rejected = list(index.lost) if inputs.partition.endswith("/0000") else []
        for done, given in enumerate(index.records(inputs.image_ids)):
            data = self._read(given)
            record, reasons = validate(given, self.settings.limits, self.settings.verify, data)
            rejected += reasons
            if record is not None:
                rows.append(_row(record, fingerprint(record, self.settings.fingerprint, data), source))
            report(done + 1, len(inputs.image_ids))
        return Output(pa.Table.from_pylist(rows, schema=IMAGES), rejected=rejected, rows_in=len(inputs.image_ids))

    def _read(self, record: ImageRecord) -> bytes | None:
        """The image's bytes, once for all checks; of one that can't be read, `validate` tells why."""
        try:
            return read_bytes(record.path, self.settings.limits)
        except BadImage:
            return None


def cut_dataset(source: Source, size: int, settings: IngestSettings, store: Store) -> Iterator[Partition]:
    """The partitions of a data set: the stored cut, extended by new images; ids that left the set are left out."""
    open_folder(source.images).refresh()
    index = _index(source, settings.indexes)
    index.require_one_image()
    # Other sets may bear the same name in other recipes: what tells them apart is where their annotations lie.
    path = store.root / "cuts" / f"{source.name}-{digest_json(str(source.annotations.absolute()))[:12]}.json"
    stored = load_cut(path)
    cut = extend_cut(stored, index.ids.tolist(), size)
    if cut != stored:
        store.put(path, cut_bytes(cut))
    remembered = PartitionDigests(index.folder)
    for number, image_ids in enumerate(cut):
        present = index.present(image_ids)
        digest = remembered.find(number, index.paths(present), [settings.fingerprint, present])
        if digest is None:
            described = [_described(record, settings) for record in index.records(present)]
            lost = [[reject.image_id, reject.reason, reject.value] for reject in index.lost] if number == 0 else []
            digest = digest_json([source.split, described, lost])
            remembered.keep(number, digest)
        yield Partition(source.name, number, present, digest)
    remembered.save()


@lru_cache(maxsize=8)
def _index(source: Source, folder: Path | None) -> RecordIndex:
    """The records of a source; opened once a process."""
    return open_index(source, folder)


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
        "uri": uri_of(record.path, source.images),
        "digest": digest,
        "width": record.width,
        "height": record.height,
        "boxes": [box._asdict() for box in record.boxes],
        "relations": [relation._asdict() for relation in record.relations],
    }
