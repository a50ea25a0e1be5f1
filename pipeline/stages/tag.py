"""Stage `tag`: triplets become candidate pairs of boxes, and the R-Tagger scores each (spec pseudo_labels 2.5, 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.candidates import CandidateSettings, open_candidates
from pipeline.images import BadImage, read_image
from pipeline.labeller import LabellerSettings, open_labeller
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from storage.errors import Terminal
from storage.tables import CANDIDATES, RELATIONS, write_table
from tagger.audit import SYMMETRIC, audit
from tagger.box import Box
from tagger.predicate_audit import audit_predicates
from tagger.predicates import canonical
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from torch import Tensor

    from tagger.tagging_image import Labels, Problem, TaggingImage

CANDIDATES_FILE = "candidates.parquet"
AUDITED_TRUTHS = 50
"""Fewer true relations within reach say too little of a partition to refuse it."""


class TagSettings(CandidateSettings, LabellerSettings):
    """Where candidates come from and how they are scored. Which of the labels are trained on is a setting of `shard`."""

    audit_floor: float = Field(0.0, ge=0, le=1)
    """A partition whose labels have a lower average precision against its given relations (if it gives 50 that candidates
    state) is not committed: the run stops and names the predicates."""


class TagStage(Stage):
    """Scored relations of one partition; `candidates.parquet` beside them holds every pair that was considered.

    The texts that a score depends on are the same for every image, but for categories and predicates that only the
    image itself names.
    """

    name = "tag"
    version = 4
    reads = ("images", "triplets")
    uses = ("tagger",)
    writes = "relations"
    schema = RELATIONS
    settings: TagSettings

    def weights(self) -> dict[str, Path]:
        """Dictionaries and tables that decide candidates, and CLIP where it labels."""
        settings: TagSettings = self.settings
        return settings.files() | settings.clip_files()

    def open(self, given: Inputs) -> None:
        """Load what proposes and what labels. Raises `Terminal` when it can't be used."""
        self._candidates = open_candidates(self.settings)
        self._open = open_labeller(self.settings, given.artifact("tagger"))

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Score the partition's candidates; images that can't be read or scored go to quarantine."""
        rows = inputs.table("images").to_pylist()
        stated = {row["image_id"]: row["triplets"] for row in inputs.table("triplets").to_pylist()}
        images = [self._image(row, stated.get(row["image_id"], [])) for row in rows]
        labels = self._open.labeller.label(images, lambda done: report(done, len(rows)))
        report(len(rows), len(rows))
        rejected = [
            Rejected(row["image_id"], one.problem.reason, one.problem.value)
            for row, one in zip(rows, labels, strict=True)
            if one.problem
        ]
        self._require(rows, images, labels, inputs.partition)
        kept = [_Kept(*each) for each in zip(rows, images, labels, strict=True) if not each[2].problem]
        relations = [
            {"image_id": one.row["image_id"], "tagger": self._open.digest, "relations": one.relations(stated)}
            for one in kept
        ]
        pairs = [{"image_id": one.row["image_id"], "pairs": [asdict(p) for p in one.image.pairs]} for one in kept]
        write_table(pa.Table.from_pylist(pairs, schema=CANDIDATES), work / CANDIDATES_FILE)
        facts = {
            "candidates": sum(len(image.pairs) for image in images),
            "images without candidates": sum(not image.pairs for image in images),
            "relations": sum(len(row["relations"]) for row in relations),
        }
        table = pa.Table.from_pylist(relations, schema=RELATIONS)
        return Output(table, {CANDIDATES_FILE: work / CANDIDATES_FILE}, rejected, rows_in=len(rows), facts=facts)

    def _require(
        self, rows: Sequence[dict[str, Any]], images: Sequence[TaggingImage], labels: Sequence[Labels], partition: str
    ) -> None:
        """Raises `Terminal` when labels are worse than the settings allow, as far as given relations can tell."""
        floor = self.settings.audit_floor
        if not floor:
            return
        judged = [
            each for each in zip(rows, images, labels, strict=True) if each[0]["relations"] and not each[2].problem
        ]
        truth = [
            {(r["subject"], canonical(r["predicate"]), r["object"]) for r in row["relations"]} for row, _, _ in judged
        ]
        relations, pairs = [one.relations for _, _, one in judged], [image.pairs for _, image, _ in judged]
        found = audit(relations, pairs, truth, SYMMETRIC).tagger
        if found.reachable < AUDITED_TRUTHS or found.average_precision() >= floor:
            return
        worst = [
            f"{scores.predicate} {scores.average_precision:.2f} ({scores.truths} true)"
            for scores in audit_predicates(relations, pairs, truth, self.settings.floor, SYMMETRIC)
            if scores.truths and scores.average_precision < floor
        ]
        raise Terminal(
            f"{partition}: average precision of labels {found.average_precision():.2f} over {found.reachable} reachable "
            f"relations is below tag.audit_floor = {floor:g}; predicates below it: {', '.join(worst)}; train the tagger "
            "longer or on more, or lower the floor"
        )

    def _image(self, row: dict[str, Any], triplets: Sequence[dict[str, Any]]) -> TaggingImage:
        import torch

        from pipeline.training.pixels import View, to_pixels, view_size
        from tagger.tagging_image import Problem, TaggingImage

        size = self._open.image_size
        boxes = [Box(b["category"], b["x"], b["y"], b["w"], b["h"], b["crowd"]) for b in row["boxes"]]
        captions = [values["caption"] for values in triplets]
        pairs = self._candidates([_triplet(values) for values in triplets], boxes, captions)
        width, height = (row["width"], row["height"]) if size is None else view_size(row["width"], row["height"], size)

        def load() -> Tensor | Problem:
            try:
                image = read_image(self.image_path(row))
                if size is None:
                    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255))
                return to_pixels(image, View(size))
            except BadImage as bad:
                return Problem(bad.reason, bad.value)

        return TaggingImage(row["width"], row["height"], boxes, pairs, (height, width), load)


class _Kept(NamedTuple):
    """An image that was labelled."""

    row: dict[str, Any]
    image: TaggingImage
    labels: Labels

    def relations(self, stated: Mapping[int, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Its relations as rows, each with the caption of its triplet."""
        triplets = stated.get(self.row["image_id"], [])
        return [
            asdict(relation) | {"caption": triplets[relation.triplet]["caption"] if relation.proposed else -1}
            for relation in self.labels.relations
        ]


def _triplet(values: dict[str, Any]) -> Triplet:
    return Triplet(**{name: value for name, value in values.items() if name != "caption"})
