"""Stage `caption`: captions images with BLIP, or from recorded captions (docs/labels.md)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
from PIL import Image

from pipeline.captioning.captioner import Caption, ImageInput, find_captioner, merge
from pipeline.captioning.captioners import Blip
from pipeline.captioning.model_folder import find_model
from pipeline.captioning.settings import CaptionSettings
from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, ImageLimits, read_ahead, read_image
from pipeline.data.images.refs import ImageRef
from pipeline.runtime.chat_endpoint import tokens_taken
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Resources, Stage
from storage.tables import CAPTIONS

if TYPE_CHECKING:
    from pipeline.captioning.blip import MatchScorer

Batch: TypeAlias = "list[tuple[dict[str, Any], ImageInput | None]]"
"""Rows of the images table with their images; None if no model looks at them."""
_AFTER = {"merge_draws", "match_at_least"}
"""Settings that apply to every captioner."""


class CaptionStage(Stage):
    """Captions the images in one partition that have a box. An image without captions keeps an empty list."""

    name = "caption"
    version = 4
    reads = ("images",)
    writes = "captions"
    loads = "the captioner"
    schema = CAPTIONS
    row_wise = True
    settings: CaptionSettings

    def row_settings(self) -> dict[str, Any]:
        """The settings that change captions: those of the captioner, and those that apply to all."""
        own = find_captioner(self.settings).row_settings()
        return self.settings.model_dump(mode="json", include={"captioner", *_AFTER}) | own

    def files(self) -> dict[str, Path]:
        """The files of the captioner and of the filter. Raises `FatalError` if one is missing."""
        settings, found = self.settings, find_captioner(self.settings).files()
        if settings.filter:
            found["filter"] = find_model(settings.filter, settings.hub, setting="filter")
        return found

    def resources(self) -> Resources:
        """The resources of one worker."""
        uses_gpu = self.settings.filter or find_captioner(self.settings).uses_gpu
        return Resources.on(self.settings.device if uses_gpu else "cpu", self.files().values())

    def imports(self) -> tuple[str, ...]:
        """The modules of the captioner, and BLIP's if one filters."""
        return (*find_captioner(self.settings).imports, *(Blip.imports if self.settings.filter else ()))

    def decisive(self, table: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The image and whether it has a box. Boxes themselves count only if captions of crops around them are set."""
        boxes = row["boxes"] if self.settings.dense != "no" else bool(row["boxes"])
        return {**row, "boxes": boxes, "relations": None}

    def open(self, uses: Inputs) -> None:
        """Load the captioner, and the filter if the settings name one."""
        self._captioner = find_captioner(self.settings).open(self.worker)
        self._scorer = self._filter() if self.settings.filter else None
        self._limits = ImageLimits()

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Caption the partition batch by batch; unreadable images are quarantined."""
        rows = [row for row in inputs.table("images").to_pylist() if row["boxes"]]
        made: list[dict[str, Any]] = []
        unfit = 0
        place = {row["image_id"]: number for number, row in enumerate(rows)}
        unreadable: list[Rejected] = []
        # BLIP encodes adjacent byte copies only once.
        first: dict[str, int] = {}
        rows.sort(key=lambda row: first.setdefault(row["digest"], len(first)))
        ahead, total, began = self._decoded(rows), 0, time.monotonic()
        size = self.settings.batch_size
        batches = (_readable(rows[start : start + size], ahead, unreadable) for start in range(0, len(rows), size))
        for number, (batch, captions) in enumerate(self._captioned(batches), start=1):
            for (row, image), drawn in zip(batch, captions, strict=True):
                found = merge(drawn) if self.settings.merge_draws else drawn
                fit = found if image is None else self._fit(image, found)
                unfit += len(found) - len(fit)
                made.append({"image_id": row["image_id"], "captions": [caption._asdict() for caption in fit]})
                total += len(found)
            pace = total / max(time.monotonic() - began, 1e-9)
            report(min(number * size, len(rows)), len(rows), f"{pace:.0f} captions/s per worker")
        facts = {"captions_filtered": unfit} if self._scorer else {}
        facts |= tokens_taken(self._captioner)
        table = pa.Table.from_pylist(sorted(made, key=lambda row: place[row["image_id"]]), schema=CAPTIONS)
        rejected = [reject for reject in self._captioner.rejects if reject.image_id in place]
        rejected += sorted(unreadable, key=lambda reject: place[reject.image_id])
        return Output(table, rejected=rejected, rows_in=len(rows), facts=facts)

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Count the captions."""
        return {"captions": sum(len(captions) for captions in table["captions"].to_pylist())}

    def _filter(self) -> MatchScorer:
        from pipeline.captioning.blip import MatchScorer  # loads torch, which recorded captions don't need

        return MatchScorer(self.settings, self.worker)

    def _captioned(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[list[Caption]]]]:
        """Each batch with its captions, in order. A captioner that waits for a server has several batches at once."""
        together = find_captioner(self.settings).batches_at_once
        if together == 1:
            yield from ((batch, self._drawn(batch)) for batch in batches)
            return
        pool, waiting = ThreadPoolExecutor(together), deque[tuple[Batch, Future[list[list[Caption]]]]]()
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(self._drawn, batch)))
                if len(waiting) == together:
                    first, captions = waiting.popleft()
                    yield first, captions.result()
            for first, captions in waiting:
                yield first, captions.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _drawn(self, batch: Batch) -> list[list[Caption]]:
        """The captions of each image: of the whole image, of its pairs of boxes, or both."""
        images = [image for _, image in batch if image is not None]
        captions: list[list[Caption]] = [[] for _ in batch]
        if self.settings.dense != "only":
            captions = self._captioner.caption(images, [row["image_id"] for row, _ in batch])
        if self.settings.dense != "no":
            self._add_dense(batch, captions)
        return captions

    def _add_dense(self, batch: Batch, captions: list[list[Caption]]) -> None:
        """Add captions of the crops around each image's pairs of boxes."""
        from pipeline.captioning.blip import BlipCaptioner, pair_crops

        assert isinstance(self._captioner, BlipCaptioner), "settings allow dense captions with BLIP only"
        for (row, image), found in zip(batch, captions, strict=True):
            assert isinstance(image, Image.Image), "crops are cut from whole images"
            crops = pair_crops(image, row["boxes"], self.settings.dense_pairs)
            dense = self._captioner.caption_with_beams(crops)
            found += [c._replace(draw=len(found) + i, source=f"{c.source} dense") for i, c in enumerate(dense)]

    def _fit(self, image: ImageInput, captions: list[Caption]) -> list[Caption]:
        """The captions that pass the filter, each with its score; all captions without a filter."""
        if self._scorer is None:
            return captions
        scores = self._scorer.scores(image, [caption.text for caption in captions])
        least = self.settings.match_at_least
        return [c._replace(match=score) for c, score in zip(captions, scores, strict=True) if score >= least]

    def _decoded(self, rows: list[dict[str, Any]]) -> Iterator[ImageInput | BadImage | None]:
        """Each row's image, read while the captioner processes earlier ones; None if no model looks at images."""
        looking = [self._captioner.side] if self._captioner.needs_images else []
        looking += [self._scorer.side] if self._scorer else []
        if not looking:
            return repeat(None, len(rows))
        places, ahead = (locate_image(self.image_folders, row) for row in rows), 2 * self.settings.batch_size
        (side, *others) = set(looking)
        if side is None or others or self.settings.dense != "no":
            return read_ahead(places, read_image, self._limits, ahead=ahead)
        from pipeline.data.images.resize import read_resized

        def read_square(place: ImageRef, limits: ImageLimits) -> ImageInput:
            return read_resized(place, side, side, limits)

        return read_ahead(places, read_square, self._limits, ahead=ahead)


def _readable(
    rows: list[dict[str, Any]], images: Iterator[ImageInput | BadImage | None], rejected: list[Rejected]
) -> Batch:
    """The next rows with their images; unreadable images are quarantined."""
    found: Batch = []
    for row, image in zip(rows, images):  # noqa: B905 - `images` goes on after these rows
        if isinstance(image, BadImage):
            rejected.append(Rejected(row["image_id"], image.reason, image.value))
        else:
            found.append((row, image))
    return found
