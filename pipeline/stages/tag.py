"""Stage `tag`: triplets become candidate pairs of boxes, and the R-Tagger scores each (spec pseudo_labels 2.5, 3.3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from pipeline.images import BadImage, read_image
from pipeline.settings import Settings, runtime
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from storage.errors import Terminal
from storage.tables import CANDIDATES, RELATIONS, write_table
from tagger.box import Box
from tagger.candidates import candidates
from tagger.relation import Relation
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from torch import Tensor

    from tagger.labelling import TaggingImage

CANDIDATES_FILE = "candidates.parquet"


class TagSettings(Settings):
    """How candidates are scored."""

    floor: float = Field(0.05, ge=0, le=1)
    """Lower scores are not kept; the threshold of training is a setting of `shard`."""
    predicate_texts: int = Field(200, ge=1)
    """So many of the tagger's predicates, the most frequent, stand beside the image's own in the list of texts."""
    batch_size: int = runtime(16, ge=1)
    """Images that go through the tagger together."""


class TagStage(Stage):
    """Scored relations of one partition; `candidates.parquet` beside them holds every pair that was considered.

    The texts that a score depends on are the partition's categories, the tagger's most frequent predicates, and
    predicates that only the image's own captions name.
    """

    name = "tag"
    version = 3
    reads = ("images", "triplets")
    uses = ("tagger",)
    writes = "relations"
    schema = RELATIONS
    settings: TagSettings

    def open(self, given: Inputs) -> None:
        """Load the tagger. Raises `Terminal` when its weights do not fit."""
        from models.weights import WeightsError, load

        artifact = given.artifact("tagger")
        vocabulary = json.loads(artifact.file("vocabulary.json").read_bytes())
        self._predicates: list[str] = vocabulary["predicates"][: self.settings.predicate_texts]
        self.image_size: int = vocabulary["image_size"]
        try:
            self._tagger: Any = load(artifact.file("model.safetensors"), artifact.folder)
        except WeightsError as error:
            raise Terminal(f"tagger {artifact.key[:12]}: {error}; remove {artifact.folder} and run again") from error

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Score the partition's candidates; images that can't be read go to quarantine."""
        from pipeline.training.pixels import view_size
        from tagger.labelling import TaggingImage, tag_images

        rows = inputs.table("images").to_pylist()
        stated = {row["image_id"]: row["triplets"] for row in inputs.table("triplets").to_pylist()}
        reading = _Reading(self, report, len(rows))
        images: list[TaggingImage] = []
        for row in rows:
            boxes = [Box(b["category"], b["x"], b["y"], b["w"], b["h"], b["crowd"]) for b in row["boxes"]]
            found = stated.get(row["image_id"], [])
            pairs = candidates([_triplet(values) for values in found], boxes, [values["caption"] for values in found])
            width, height = view_size(row["width"], row["height"], self.image_size)
            load = reading.of(row, waits=bool(pairs))
            images.append(TaggingImage(row["width"], row["height"], boxes, pairs, (height, width), load))
        categories = sorted({box.category for image in images for box in image.boxes})
        settings: TagSettings = self.settings
        try:
            tagged = tag_images(self._tagger, images, categories, self._predicates, settings.batch_size, settings.floor)
        except FloatingPointError as error:
            raise Terminal(f"{inputs.partition}: {error}") from error
        report(len(rows), len(rows))
        return _output(rows, images, tagged, reading.rejected, work)


class _Reading:
    """Reads images when their turn comes: counts them for the report, and rejects those that can't be read."""

    def __init__(self, stage: TagStage, report: Report, total: int) -> None:
        self._stage, self._report, self._total, self._done = stage, report, total, total
        self.rejected: list[Rejected] = []

    def of(self, row: dict[str, Any], waits: bool) -> Callable[[], Tensor | None]:
        """What loads the image of a row. An image without candidates is never loaded and counts as done."""
        from pipeline.training.pixels import View, to_pixels

        self._done -= waits

        def load() -> Tensor | None:
            self._done += 1
            self._report(self._done, self._total)
            try:
                return to_pixels(read_image(self._stage.image_path(row)), View(self._stage.image_size))
            except BadImage as bad:
                self.rejected.append(Rejected(row["image_id"], bad.reason, bad.value))
                return None

        return load


def _output(
    rows: Sequence[dict[str, Any]],
    images: Sequence[TaggingImage],
    tagged: Sequence[list[Relation] | None],
    rejected: Sequence[Rejected],
    work: Path,
) -> Output:
    relations, pairs = [], []
    for row, image, found in zip(rows, images, tagged, strict=True):
        if found is not None:
            relations.append({"image_id": row["image_id"], "relations": [asdict(r) for r in _once(found)]})
            pairs.append({"image_id": row["image_id"], "pairs": [asdict(pair) for pair in image.pairs]})
    write_table(pa.Table.from_pylist(pairs, schema=CANDIDATES), work / CANDIDATES_FILE)
    facts = {
        "candidates": sum(len(image.pairs) for image in images),
        "images without candidates": sum(not image.pairs for image in images),
        "relations": sum(len(row["relations"]) for row in relations),
    }
    table = pa.Table.from_pylist(relations, schema=RELATIONS)
    return Output(table, {CANDIDATES_FILE: work / CANDIDATES_FILE}, rejected, rows_in=len(rows), facts=facts)


def _once(relations: Sequence[Relation]) -> list[Relation]:
    """Each label once, from the first mention that proposes it."""
    first: dict[tuple[int, int, str], Relation] = {}
    for relation in relations:
        first.setdefault((relation.subject, relation.object, relation.predicate), relation)
    return list(first.values())


def _triplet(values: dict[str, Any]) -> Triplet:
    return Triplet(**{name: value for name, value in values.items() if name != "caption"})
