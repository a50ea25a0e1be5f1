"""Stage `ingest`: reads public annotation formats into one checked row per image; bad data is quarantined."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.datasets.record import ImageRecord
from pipeline.data.datasets.record_index import open_index
from pipeline.data.datasets.source import DataSource
from pipeline.data.datasets.validate import BOX_REASONS, CORRECTED, IMAGE_REASONS, RELATION_REASONS, validate
from pipeline.data.images.decoder_process import DecoderProcess
from pipeline.data.images.opening import FORMATS, BadImage, ImageLimits, Probe, fingerprint, probe_bytes, read_bytes
from pipeline.data.images.refs import ImageRef, uri_of
from pipeline.data.partitioning import fingerprint_or_fault, forget_digest, partition_dataset, partition_digest
from pipeline.runtime.settings import Settings, runtime
from pipeline.runtime.stage import Inputs, Output, Partition, ReportProgress, Stage, dataset_of
from pipeline.runtime.wording import MISSING, UNREADABLE
from storage.errors import RetryableError
from storage.store import Store
from storage.tables import IMAGES

_FORMATS_IN_KEYS = ["JPEG", "PNG", "WEBP", "BMP"]
"""The default of `limits.formats` in keys: the one before further formats were added, so that keys stay valid."""


class IngestSettings(Settings):
    """How images and boxes are read and checked."""

    verify: Literal["decode", "header"] = "decode"
    """How images are checked. decode: by decoding; header: by header only, for slow disks."""
    fingerprint: Literal["bytes", "stat"] = "bytes"
    """How changed images are detected. bytes: by content, read if size, times or inode differ; stat: by size and
    time."""
    limits: ImageLimits = ImageLimits()
    indexes: Path | None = runtime(None)
    """Folder that caches parsed annotations. Unset: `indexes` in the store."""
    sources: tuple[DataSource, ...] = runtime(())
    """The datasets, filled in from the recipe's `data` section."""
    partition_size: int = runtime(1000, ge=1)
    """Copied from `data.partition_size`."""


class IngestStage(Stage):
    """Reads and validates the images and boxes of one partition."""

    name = "ingest"
    version = 4
    writes = "images"
    schema = IMAGES
    parts = {"boxes": BOX_REASONS, "relations": RELATION_REASONS}  # noqa: RUF012 - a constant
    corrected = CORRECTED
    settings: IngestSettings

    def __init__(self, settings: Settings, image_folders: Mapping[str, Path | str] | None = None) -> None:
        super().__init__(settings, image_folders)
        self._index = cache(lambda source: open_index(source, self.settings.indexes))

    def row_settings(self) -> dict[str, Any]:
        """The settings that change rows. The order of formats changes none."""
        settings = super().row_settings()
        formats = self.settings.limits.formats
        settings["limits"]["formats"] = _FORMATS_IN_KEYS if formats == FORMATS else sorted(formats)
        return settings

    def partitions(self, dataset: str, store: Store) -> Iterator[Partition]:
        """The stored partitions of a dataset, extended by new images."""
        settings = self.settings
        source = self._source(dataset)
        return partition_dataset(
            source, settings.partition_size, settings.indexes, settings.fingerprint, store, settings.limits
        )

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Read and check the partition's images. Unusable data is rejected with its reason.

        Raises `RetryableError` if they are not those of the partition's digest, as when a folder was unmounted.
        """
        source = self._source(dataset_of(inputs.partition))
        index = self._index(source)
        rows: list[dict[str, Any]] = []
        # Entries without a record belong to no partition. They are reported once, with the first, unless only a part of
        # the dataset was asked for.
        lost = index.lost if inputs.partition.endswith("/0000") and not source.sample else []
        rejected, found = [*lost], list[tuple[ImageRecord, str]]()
        rows_in = len(inputs.image_ids) + sum(reject.reason in IMAGE_REASONS for reject in rejected)
        for done, stated in enumerate(index.records(inputs.image_ids), start=1):
            digest, probe = self._opened(stated.path)
            found.append((stated, digest))
            record, reasons = validate(stated, probe)
            rejected += reasons
            if record is not None:
                rows.append(image_row(record, source, digest))
            report(done, len(inputs.image_ids))
        # Copies of the same images on several nodes have different times.
        is_exact = inputs.digest and self.settings.fingerprint == "bytes"
        if is_exact and inputs.digest != partition_digest(source, found, lost):
            forget_digest(index, source.name, int(inputs.partition.rpartition("/")[2]))
            raise RetryableError(
                f"ingest {inputs.partition}: its annotations or image files on {platform.node()} are not what this run "
                "was planned with: they were changed since, or their folder is not mounted; run again"
            )
        table, facts = pa.Table.from_pylist(rows, schema=IMAGES), {"sample": source.sample} if source.sample else {}
        return Output(table, rejected=rejected, rows_in=rows_in, facts=facts)

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Count boxes and relations."""
        return {name: pc.sum(pc.list_value_length(table[name])).as_py() or 0 for name in self.parts}

    def _source(self, dataset: str) -> DataSource:
        (source,) = [source for source in self.settings.sources if source.name == dataset]
        return source

    def _opened(self, place: ImageRef) -> tuple[str, Probe | BadImage]:
        """The `fingerprint_or_fault` of an image's file, and the image's probe or fault. A good file is read once."""
        settings = self.settings
        try:
            data = read_bytes(place, settings.limits)
            digest = fingerprint(place, settings.fingerprint, data)
        except BadImage as bad:
            if settings.fingerprint == "bytes" and bad.reason in (MISSING, UNREADABLE):
                return bad.reason, bad
            return fingerprint_or_fault(place, settings.fingerprint, settings.limits), bad
        return digest, decoder_of(settings.limits, settings.verify).probe(data)


@lru_cache(maxsize=1)
def decoder_of(limits: ImageLimits, verify: Literal["decode", "header"]) -> DecoderProcess:
    """The process that opens unchecked images, started once for the process that reads them."""
    return DecoderProcess(partial(probe_bytes, limits=limits, verify=verify))


def image_row(record: ImageRecord, source: DataSource, digest: str | None = None) -> dict[str, Any]:
    """The row of an image in the table `images`. `digest`: of its file; None if that is not read."""
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
