"""Stage `caption`: each image's captions, drawn by BLIP or taken from recordings (spec pseudo_labels 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.captioning.model_folder import find_lavis_model, find_model
from pipeline.captioning.settings import CaptionSettings
from pipeline.images import BadImage, ImageLimits, read_image
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from storage.tables import CAPTIONS


class CaptionStage(Stage):
    """Captions of one partition's images that have a box (spec 1.4); an image without captions keeps an empty list."""

    name = "caption"
    version = 2
    reads = ("images",)
    writes = "captions"
    schema = CAPTIONS
    settings: CaptionSettings

    def row_settings(self) -> dict[str, Any]:
        """What changes captions: of a recording its name, which captions bear, and its content, which `weights` tells."""
        if self.settings.captioner == "recorded":
            return {"captioner": "recorded", "recorded": [path.name for path in self.settings.recorded]}
        return self.settings.row_settings()

    def weights(self) -> dict[str, Path]:
        """The captioner's folder, or the recordings. Raises `Terminal` when there is none."""
        if self.settings.captioner == "recorded":
            return {f"recorded {number}": path for number, path in enumerate(self.settings.recorded)}
        if self.settings.captioner == "lavis":
            checkpoint, vocabulary = find_lavis_model(self.settings.model)
            return {"captioner": checkpoint, "vocabulary": vocabulary}
        return {"captioner": find_model(self.settings.model, self.settings.hub)}

    def open(self, given: Inputs) -> None:
        """Load the captioner."""
        from pipeline.captioning.open_captioner import open_captioner

        self._captioner = open_captioner(self.settings)
        self._limits = ImageLimits()

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Caption the partition, a batch at a time; images that can't be read go to quarantine."""
        rows = [row for row in inputs.table("images").to_pylist() if row["boxes"]]
        made: list[dict[str, Any]] = []
        here = {row["image_id"] for row in rows}
        rejected = [reject for reject in self._captioner.rejects if reject.image_id in here]
        for start in range(0, len(rows), self.settings.batch_size):
            batch = self._readable(rows[start : start + self.settings.batch_size], rejected)
            image_ids = [image_id for image_id, _ in batch]
            captions = self._captioner.caption([image for _, image in batch if image is not None], image_ids)
            for image_id, found in zip(image_ids, captions, strict=True):
                made.append({"image_id": image_id, "captions": [caption._asdict() for caption in found]})
            report(min(start + self.settings.batch_size, len(rows)), len(rows))
        facts = {"captions": sum(len(row["captions"]) for row in made)}
        table = pa.Table.from_pylist(made, schema=CAPTIONS)
        return Output(table, rejected=rejected, rows_in=len(rows), facts=facts)

    def _readable(self, rows: list[dict[str, Any]], rejected: list[Rejected]) -> list[tuple[int, Image.Image | None]]:
        """Image ids and images; a captioner that looks at none gets none."""
        if not self._captioner.needs_images:
            return [(row["image_id"], None) for row in rows]
        images: list[tuple[int, Image.Image | None]] = []
        for row in rows:
            try:
                images.append((row["image_id"], read_image(self.image_path(row), self._limits)))
            except BadImage as bad:
                rejected.append(Rejected(row["image_id"], bad.reason, bad.value))
        return images
