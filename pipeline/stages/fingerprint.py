"""Stage `fingerprint`: hashes test images, so that training can exclude them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_bytes
from pipeline.data.images.perceptual_hash import perceptual_hash
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.digests import digest_bytes
from storage.tables import FINGERPRINTS


class FingerprintStage(Stage):
    """Hashes the images of one partition of a test set. It has no settings."""

    name = "fingerprint"
    version = 1
    reads = ("images",)
    writes = "fingerprints"
    schema = FINGERPRINTS
    row_wise = True

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Hash each image's bytes and its appearance; unreadable images are quarantined."""
        rows = inputs.table("images").to_pylist()
        made: list[dict[str, Any]] = []
        rejected: list[Rejected] = []
        for done, row in enumerate(rows):
            report(done, len(rows))
            try:
                data = read_bytes(locate_image(self.image_folders, row))
                phash = perceptual_hash(data)
            except BadImage as bad:
                rejected.append(Rejected(row["image_id"], bad.reason, bad.value))
                continue
            identity = {"dataset": row["dataset"], "image_id": row["image_id"]}
            made.append({**identity, "digest": digest_bytes(data), "phash": phash})
        report(len(rows), len(rows))
        return Output(pa.Table.from_pylist(made, schema=FINGERPRINTS), rejected=rejected, rows_in=len(rows))

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Count the images, and those with too little structure for a perceptual hash."""
        return {"images": len(table), "without a perceptual hash": table["phash"].null_count}
