"""Stage `caption`: captions images, boxes or pairs of boxes with any captioner (docs/labels.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
from PIL import Image, ImageDraw

from pipeline.captioning.captioner import Caption, Captioner, ImageInput, merge
from pipeline.captioning.captioners import Blip
from pipeline.captioning.model_folder import find_model
from pipeline.captioning.settings import REGION_SETTINGS, CaptionSettings
from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, done_ahead, read_ahead, read_image
from pipeline.data.images.refs import ImageRef
from pipeline.runtime.chat_endpoint import tokens_taken
from pipeline.runtime.plugins import PluginStage
from pipeline.runtime.settings import Settings
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Resources, Stage
from storage.tables import CAPTIONS, IMAGE_CAPTIONS
from tagger.box import Box, boxes_of
from tagger.candidates.grounding import pair_priors

if TYPE_CHECKING:
    from pipeline.captioning.blip import MatchScorer

Region: TypeAlias = tuple[int, ...]
"""Indices of the one or two boxes that a caption describes; none for the whole image."""
Batch: TypeAlias = "list[tuple[dict[str, Any], Region, ImageInput | None]]"
"""Rows of the images table, each with a region and its image; None if no model looks at it."""
_COMMON = {"merge_draws", "match_at_least"}
"""Settings that apply to every captioner."""


class CaptionStage(PluginStage):
    """Captions the images in one partition that have a box, or their boxes. Images without captions get an empty
    list."""

    name = "caption"
    version = 4
    reads = ("images",)
    writes = "captions"
    loads = "the captioner"
    schema = IMAGE_CAPTIONS
    row_wise = True
    settings: CaptionSettings

    def __init__(self, settings: Settings, image_folders: Mapping[str, Path | str] | None = None) -> None:
        super().__init__(settings, image_folders)
        if self.settings.crops:
            self.schema = CAPTIONS

    def row_settings(self) -> dict[str, Any]:
        """The settings that change captions: those of the captioner, those that apply to all, and the filter's."""
        applied = {"captioner", *_COMMON, *(REGION_SETTINGS if self.settings.crops else ())}
        if self.settings.filter:
            applied.add("precision")
        return self.settings.model_dump(mode="json", include=applied) | self.plugin.row_settings()

    def files(self) -> dict[str, Path]:
        """The files of the captioner and of the filter. Raises `FatalError` if one is missing."""
        settings, found = self.settings, super().files()
        if settings.filter:
            found["filter"] = find_model(settings.filter, settings.hub, setting="filter")
        return found

    def resources(self) -> Resources:
        """The resources of one worker. A filter always uses the device."""
        return Stage.resources(self) if self.settings.filter else super().resources()

    def imports(self) -> tuple[str, ...]:
        """The modules of the captioner, and BLIP's if one filters."""
        return (*super().imports(), *(Blip.imports if self.settings.filter else ()))

    def decisive(self, table: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The image and whether it has a box. Boxes themselves count only if they are captioned."""
        boxes = row["boxes"] if self.settings.crops else bool(row["boxes"])
        return {**row, "boxes": boxes, "relations": None}

    def open(self, uses: Inputs) -> None:
        """Load the captioner, and the filter if the settings name one."""
        self._captioner: Captioner = self.settings.plugin.open(self.worker)
        self._scorer: MatchScorer | None = None
        if self.settings.filter:
            from pipeline.captioning.blip import MatchScorer  # loads torch, which recorded captions don't need

            self._scorer = MatchScorer(self.settings, self.worker)

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Caption the partition batch by batch; unreadable images are quarantined."""
        rows = [row for row in inputs.table("images").to_pylist() if row["boxes"]]
        made: dict[int, list[dict[str, Any]]] = {}
        unfit = 0
        place = {row["image_id"]: number for number, row in enumerate(rows)}
        unreadable: list[Rejected] = []
        # BLIP encodes adjacent byte copies only once.
        first: dict[str, int] = {}
        rows.sort(key=lambda row: first.setdefault(row["digest"], len(first)))
        done = {row["image_id"]: number for number, row in enumerate(rows, start=1)}
        total, began = 0, time.monotonic()
        regions = self._regions(rows, made, unreadable)
        batches = iter(lambda: list(islice(regions, self.settings.batch_size)), [])
        for batch, captions in self._captioned(batches):
            for (row, region, image), drawn in zip(batch, captions, strict=True):
                found = [c._replace(boxes=region) for c in drawn] if region else drawn
                found = merge(found) if self.settings.merge_draws else found
                fit = found if image is None else self._fit(image, found)
                unfit += len(found) - len(fit)
                made[row["image_id"]] += [caption._asdict() for caption in fit]
                total += len(found)
            pace = total / max(time.monotonic() - began, 1e-9)
            report(done[row["image_id"]], len(rows), f"{pace:.0f} captions/s per worker")
        facts = {"captions_filtered": unfit} if self._scorer else {}
        ordered = [{"image_id": image_id, "captions": made[image_id]} for image_id in place if image_id in made]
        table = pa.Table.from_pylist(ordered, schema=self.schema)
        rejected = [reject for reject in self._captioner.rejects if reject.image_id in place]
        rejected += sorted(unreadable, key=lambda reject: place[reject.image_id])
        facts |= tokens_taken(self._captioner)
        return Output(table, rejected=rejected, rows_in=len(rows), facts=facts)

    def describe(self, inputs: Inputs, table: pa.Table) -> dict[str, Any]:
        """Count the captions."""
        return {"captions": sum(len(captions) for captions in table["captions"].to_pylist())}

    def _captioned(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[list[Caption]]]]:
        """Each batch with its captions, in order. A captioner that waits for a server has several batches at once."""
        together = self.settings.plugin.batches_at_once
        if together == 1:
            return ((batch, self._drawn(batch)) for batch in batches)
        # After an error, nobody needs the captions that are still under way.
        return done_ahead(lambda batch: (batch, self._drawn(batch)), batches, together, together, waits=False)

    def _regions(
        self, rows: list[dict[str, Any]], made: dict[int, list[dict[str, Any]]], rejected: list[Rejected]
    ) -> Iterator[tuple[dict[str, Any], Region, ImageInput | None]]:
        """What is captioned of each image. Adds readable images to `made`; quarantines the others."""
        of = self.settings.of if self._captioner.needs_images else ("image",)
        for row, image in zip(rows, self._decoded(rows), strict=True):
            if isinstance(image, BadImage):
                rejected.append(Rejected(row["image_id"], image.reason, image.value))
                continue
            made[row["image_id"]] = []
            boxes = boxes_of(row)
            for kind in of:
                for region in _regions_of(boxes, kind, self.settings.max_regions):
                    yield row, region, _crop(image, [boxes[n] for n in region], self.settings.context)

    def _drawn(self, batch: Batch) -> list[list[Caption]]:
        images = [image for *_, image in batch if image is not None]
        return self._captioner.caption(images, [row["image_id"] for row, *_ in batch])

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
        # One resized image serves models of one side alone, and crops are cut from whole images.
        (side, *others) = set(looking)
        if side is None or others or self.settings.crops:
            return read_ahead(places, read_image, ahead=ahead)
        from pipeline.data.images.resize import read_resized

        def read_square(place: ImageRef) -> ImageInput:
            return read_resized(place, side, side)

        return read_ahead(places, read_square, ahead=ahead)


def _regions_of(boxes: Sequence[Box], kind: str, most: int) -> list[Region]:
    """The regions of a kind: at most `most` of an image's boxes or of its unordered pairs, without crowds."""
    if kind == "image":
        return [()]
    single = [number for number, box in enumerate(boxes) if not box.crowd]
    if kind == "box":
        return [(n,) for n in sorted(single, key=lambda n: -boxes[n].w * boxes[n].h)[:most]]
    pairs = list(combinations(single, 2))
    priors = dict(zip(pairs, pair_priors(pairs, boxes, stated=1), strict=True))
    return [*sorted(pairs, key=lambda pair: -priors[pair])[:most]]


def _crop(image: ImageInput | None, boxes: Sequence[Box], context: float) -> ImageInput | None:
    """The rectangle around boxes in whole pixels, outlined in red, with `context` of its size on each side, inside the
    image. The rectangle alone without context; the image itself without boxes.

    (The authors' script ignored the right and bottom of the second box.)
    """
    if not boxes:
        return image
    assert isinstance(image, Image.Image), "crops are cut from whole images"
    left, top = (min(getattr(box, side) for box in boxes) for side in "xy")
    right, bottom = max(box.x + box.w for box in boxes), max(box.y + box.h for box in boxes)
    across, down = context * (right - left), context * (bottom - top)
    start = max(0, math.floor(left - across)), max(0, math.floor(top - down))
    end = min(image.width, math.ceil(right + across)), min(image.height, math.ceil(bottom + down))
    crop = image.crop((*start, *end))
    if context:
        place = left - start[0], top - start[1], right - start[0], bottom - start[1]
        ImageDraw.Draw(crop).rectangle(place, outline="red", width=max(2, max(crop.size) // 200))
    return crop
