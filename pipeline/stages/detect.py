"""Stage `detect`: finds the boxes of images without annotations (docs/datasets.md)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_ahead, read_image
from pipeline.detection.settings import DetectSettings
from pipeline.runtime.logs import log
from pipeline.runtime.plugins import load_plugin, options_of, plugin_terms
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from storage.tables import DETECTIONS, DETECTIONS_FILE, IMAGES, write_table

_CHUNK = 4
"""Batches whose images are in memory together, so that images of equal size can share a forward pass."""


class DetectStage(Stage):
    """Finds the boxes of one partition's images. Its table is that of stage `ingest`, with boxes.

    `detections.parquet` beside it holds the same boxes in the same order, with the detector's scores.
    """

    name = "detect"
    version = 1
    audit_version = 2
    reads = ("images",)
    writes = "images"
    uses_gpu = True
    loads = "the detector"
    schema = IMAGES
    settings: DetectSettings

    def row_settings(self) -> dict[str, Any]:
        """The settings that change boxes, with those of a detector of another package."""
        row_settings = super().row_settings()
        if (name := self.settings.detector) is not None:
            plugin = load_plugin("detectors", name)
            options = options_of(plugin, self.settings.options, "detect.options")
            row_settings |= {"detector": name, **plugin_terms(plugin, options)}
        elif (path := Path(self.settings.weights or "")).suffix == ".pth":
            from pipeline.detection.weights_files import WITHOUT_EPSILON

            # 2: torchvision's own limits no longer exclude boxes that the settings keep.
            row_settings["version"] = 3 if path.name.startswith(WITHOUT_EPSILON) else 2
        if self.settings.categories:
            row_settings["names"] = 2  # before, some broader names ("glove") were mapped to a category
        return row_settings

    def files(self) -> dict[str, Path]:
        """The files of the detector. Raises `FatalError` if one is missing."""
        from pipeline.detection.weights_files import find_detector

        return find_detector(self.settings).files

    def imports(self) -> tuple[str, ...]:
        """The modules that detectors are built of."""
        return ("models.rlip",)

    def open(self, uses: Inputs) -> None:
        """Load the detector. Raises `FatalError` if it is unusable, or if its names match no category."""
        from pipeline.detection.detector import open_detector

        self._detector = open_detector(self.settings, self.worker)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Detect image by image; unreadable images are quarantined."""
        rows = inputs.table("images").to_pylist()
        places = (locate_image(self.image_folders, row) for row in rows)
        size = self.settings.batch_size * _CHUNK
        ahead = read_ahead(places, read_image, ahead=size)
        rejected: list[Rejected] = []
        detected: list[dict[str, Any]] = []
        others = 0
        pairs = zip(rows, ahead, strict=True)
        for chunk in iter(lambda: list(islice(pairs, size)), []):
            readable = [(row, image) for row, image in chunk if not isinstance(image, BadImage)]
            rejected += [
                Rejected(row["image_id"], image.reason, image.value)
                for row, image in chunk
                if isinstance(image, BadImage)
            ]
            found = self._detector.detect([image for _, image in readable], [row["uri"] for row, _ in readable])
            for (row, _), named in zip(readable, found, strict=True):
                boxes = [box | {"crowd": False, "source_id": -1} for box in named.boxes.rows(self._detector.categories)]
                detected.append(row | {"boxes": boxes, "pairs": []})
                others += named.other_names
            report(len(detected) + len(rejected), len(rows))
        # Both tables come from the same rows: a schema takes the fields it has, and IMAGES has no score.
        write_table(pa.Table.from_pylist(detected, schema=DETECTIONS), work / DETECTIONS_FILE)
        table = pa.Table.from_pylist(detected, schema=IMAGES)
        facts = {"boxes of other names": others}
        return Output(table, {DETECTIONS_FILE: work / DETECTIONS_FILE}, rejected, rows_in=len(rows), facts=facts)

    def audit(self, made: Inputs) -> None:
        """Warn of recorded boxes in another convention. Raises `FatalError` for the same ones in several images,
        whatever their partitions.
        """
        from pipeline.detection.recorded_detector import RecordedDetector
        from pipeline.detection.weights_files import find_detector

        if (files := find_detector(self.settings)).kind == "recorded":
            images = (
                (row["dataset"], row["uri"])
                for artifact in made.artifacts("images")
                for row in artifact.table("images").select(["dataset", "uri"]).to_pylist()
            )
            recorded = RecordedDetector(files, self.settings, 0)
            recorded.require_apart(images)
            if doubts := recorded.doubts():
                log.warning(doubts, extra={"notice": doubts})

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Count the boxes, and the images without any."""
        counts = [len(boxes) for boxes in table["boxes"].to_pylist()]
        return {"boxes": sum(counts), "images without boxes": counts.count(0)}
