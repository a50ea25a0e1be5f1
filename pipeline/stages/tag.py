"""Stage `tag`: triplets become candidate pairs of boxes, and the R-Tagger scores each (spec pseudo_labels 2.5, 3.3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from pipeline.candidates import CandidateSettings, open_candidates
from pipeline.images import BadImage, read_image
from pipeline.settings import runtime
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from pipeline.training.tagger_settings import CALIBRATION
from storage.digests import digest_file
from storage.errors import Terminal
from storage.tables import CANDIDATES, RELATIONS, write_table
from tagger.audit import SYMMETRIC, audit
from tagger.box import Box
from tagger.calibration import Calibration
from tagger.predicate_audit import audit_predicates
from tagger.predicates import canonical
from tagger.triplet import Triplet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tagger.tagging_image import Labels, Problem, TaggingImage

CANDIDATES_FILE = "candidates.parquet"
AUDITED_TRUTHS = 50
"""Fewer true relations within reach say too little of a partition to refuse it."""


class TagSettings(CandidateSettings):
    """Where candidates come from and how they are scored. Which of the labels are trained on is a setting of `shard`."""

    predicates: Literal["pair", "image"] = "pair"
    """pair: a predicate is scored on the pairs that captions propose it for; image: every predicate that the image's
    captions propose on every proposed pair, as the authors do."""
    floor: float = Field(0.05, ge=0, le=1)
    """Lower scores are not kept."""
    categories: tuple[str, ...] = ()
    """Names in the list of texts of every image, e.g. all of the data set's; none given: the tagger's most frequent."""
    category_texts: int = Field(100, ge=0)
    """So many of the tagger's object names, the most frequent, where `categories` gives none."""
    predicate_texts: int = Field(200, ge=0)
    """So many of the tagger's predicates, the most frequent, stand beside the image's own; 0, as the authors do: none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    audit_floor: float = Field(0.0, ge=0, le=1)
    """A partition whose labels have a lower average precision against its given relations (if it gives 50 that candidates
    state) is not committed: the run stops and names the predicates."""
    batch_size: int = runtime(16, ge=1)
    """Images that go through the encoder together."""
    pairs_together: int = runtime(1600, ge=1)
    """Pairs of boxes that go through the decoders together: bounds the memory of crowded images."""
    device: Literal["auto", "cpu", "cuda"] = runtime("auto")


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
    row_wise = True
    settings: TagSettings

    def weights(self) -> dict[str, Path]:
        """Dictionaries and tables that decide candidates."""
        settings: TagSettings = self.settings
        return settings.files()

    def open(self, given: Inputs) -> None:
        """Load the tagger. Raises `Terminal` when its weights do not fit, are of another network or no numbers."""
        from models.relation_tagger import RelationTagger
        from models.weights import WeightsError, load
        from tagger.labelling import Labeller

        artifact = given.artifact("tagger")
        vocabulary = json.loads(artifact.file("vocabulary.json").read_bytes())
        settings: TagSettings = self.settings
        self._candidates = open_candidates(settings)
        self._view = vocabulary["image_size"]
        calibration = artifact.file(CALIBRATION)
        try:
            tagger = load(artifact.file("model.safetensors"), artifact.folder)
            if not isinstance(tagger, RelationTagger):
                raise WeightsError(f"weights of a {type(tagger).__name__}, not of a Relation Tagger")
            self._tagger = digest_file(artifact.file("model.safetensors"))
            self._labeller = Labeller(
                tagger.to(_device(settings.device)),
                settings.categories or vocabulary["objects"][: settings.category_texts],
                vocabulary["predicates"][: settings.predicate_texts],
                Calibration.from_json(calibration.read_bytes()) if calibration.is_file() else None,
                settings.predicates,
                settings.floor,
                settings.batch_size,
                settings.pairs_together,
                settings.precision,
            )
        except (WeightsError, FloatingPointError, ValueError) as error:
            raise Terminal(f"tagger {artifact.key[:12]}: {error}; remove {artifact.folder} and run again") from error

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Score the partition's candidates; images that can't be read or scored go to quarantine."""
        rows = inputs.table("images").to_pylist()
        stated = {row["image_id"]: row["triplets"] for row in inputs.table("triplets").to_pylist()}
        images = [self._image(row, stated.get(row["image_id"], [])) for row in rows]
        labels = self._labeller.label(images, lambda done: report(done, len(rows)))
        report(len(rows), len(rows))
        rejected = [
            Rejected(row["image_id"], one.problem.reason, one.problem.value)
            for row, one in zip(rows, labels, strict=True)
            if one.problem
        ]
        self._require(rows, images, labels, inputs.partition)
        kept = [_Kept(*each) for each in zip(rows, images, labels, strict=True) if not each[2].problem]
        relations = [
            {"image_id": one.row["image_id"], "tagger": self._tagger, "relations": one.relations(stated)}
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
        from pipeline.training.pixels import View, to_pixels, view_size
        from tagger.tagging_image import Problem, TaggingImage

        boxes = [Box(b["category"], b["x"], b["y"], b["w"], b["h"], b["crowd"]) for b in row["boxes"]]
        captions = [values["caption"] for values in triplets]
        pairs = self._candidates([_triplet(values) for values in triplets], boxes, captions)
        width, height = view_size(row["width"], row["height"], self._view)

        def load() -> Tensor | Problem:
            try:
                return to_pixels(read_image(self.image_path(row)), View(self._view))
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


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise Terminal("tag.device = 'cuda': this machine has no usable GPU; set device = 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _triplet(values: dict[str, Any]) -> Triplet:
    return Triplet(**{name: value for name, value in values.items() if name != "caption"})
