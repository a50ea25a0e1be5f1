"""Stage `caption`: each image's captions, drawn by BLIP or taken from recordings (spec pseudo_labels 1)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.captioning.model_folder import find_lavis_model, find_model
from pipeline.captioning.settings import CaptionSettings
from pipeline.image_reader import read_ahead
from pipeline.images import BadImage, ImageLimits
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from storage.tables import CAPTIONS


class CaptionStage(Stage):
    """Captions of one partition's images that have a box (spec 1.4); an image without captions keeps an empty list."""

    name = "caption"
    version = 2
    reads = ("images",)
    writes = "captions"
    schema = CAPTIONS
    row_wise = True
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
        ahead = self._decoded(rows)
        for start in range(0, len(rows), self.settings.batch_size):
            batch = _readable(rows[start : start + self.settings.batch_size], ahead, rejected)
            image_ids = [image_id for image_id, _ in batch]
            captions = self._captioner.caption([image for _, image in batch if image is not None], image_ids)
            for image_id, found in zip(image_ids, captions, strict=True):
                made.append({"image_id": image_id, "captions": [caption._asdict() for caption in found]})
            report(min(start + self.settings.batch_size, len(rows)), len(rows))
        facts = {"captions": sum(len(row["captions"]) for row in made)}
        table = pa.Table.from_pylist(made, schema=CAPTIONS)
        return Output(table, rejected=rejected, rows_in=len(rows), facts=facts)

    def _decoded(self, rows: list[dict[str, Any]]) -> Iterator[Image.Image | BadImage | None]:
        """Each row's image, decoded while the captioner works on those before; a captioner that looks at none gets none."""
        if not self._captioner.needs_images:
            return repeat(None, len(rows))
        places = (self.image_path(row) for row in rows)
        return read_ahead(places, self._limits, ahead=2 * self.settings.batch_size)


def _readable(
    rows: list[dict[str, Any]], images: Iterator[Image.Image | BadImage | None], rejected: list[Rejected]
) -> list[tuple[int, Image.Image | None]]:
    """Image ids and images of the next rows; what can't be read is rejected."""
    found: list[tuple[int, Image.Image | None]] = []
    for row, image in zip(rows, images):  # noqa: B905 - there are more images than rows
        if isinstance(image, BadImage):
            rejected.append(Rejected(row["image_id"], image.reason, image.value))
        else:
            found.append((row["image_id"], image))
    return found
