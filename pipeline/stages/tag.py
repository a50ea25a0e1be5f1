"""Stage `tag`: turns triplets into candidate pairs of boxes and scores each (docs/labels.md, Labelling)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, read_image
from pipeline.labels.kept_labels import ChoiceSettings
from pipeline.labels.label_audit import LabelCount
from pipeline.runtime.resources import Resources
from pipeline.runtime.settings import runtime
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from pipeline.stages.candidates import CandidateSettings, open_candidates
from pipeline.stages.labeller import LabellerSettings, open_labeller
from storage.errors import FatalError
from storage.tables import CANDIDATES, DROPPED, RELATIONS, write_table
from tagger.box import Box
from tagger.candidates.source import Candidates
from tagger.triplet import Triplet

if TYPE_CHECKING:
    from torch import Tensor

    from tagger.labelling.tagging_image import Labels, Problem, TaggingImage

CANDIDATES_FILE = "candidates.parquet"
DROPPED_FILE = "dropped.parquet"
QUARANTINED = "image in quarantine"
"""Why the triplets of an image led to nothing that could not be read or scored."""
_NETWORK_MODULES = {"tagger": ("models.relation_tagger",), "clip": ("transformers.models.clip.modeling_clip",)}
"""Method with a network → the modules of the network."""
LOWEST = 3
"""Number of predicates that a refusal names when no single one is below the floor."""


class TagSettings(CandidateSettings, LabellerSettings):
    """Where candidates come from and how they are scored. Section `shard` chooses the labels to train on."""

    audit_floor: float = runtime(0.0, ge=0, le=1)
    """Minimum average precision of all labels together against the ground truth. A run with worse labels is
    refused, and the worst predicates are named. 0 turns the check off."""


class TagStage(Stage):
    """Makes the scored relations of one partition.

    Beside them, `candidates.parquet` holds every pair that was considered, and `dropped.parquet` every triplet that led to
    none, with the reason.

    The texts that a score depends on are the same for every image, except for categories and predicates of its own.
    """

    name = "tag"
    version = 9
    reads = ("images", "triplets")
    uses = ("tagger",)
    writes = "relations"
    loads = "the tagger"
    schema = RELATIONS
    settings: TagSettings

    def weights(self) -> dict[str, Path]:
        """The dictionaries and tables that decide candidates, and CLIP's folder for method "clip"."""
        settings: TagSettings = self.settings
        return settings.files() | settings.clip_files()

    def imports(self) -> tuple[str, ...]:
        """Returns the module of the labeller's network."""
        return _NETWORK_MODULES.get(self.settings.method, ())

    def resources(self) -> Resources:
        """What one worker takes of its machine. Only the tagger and CLIP use a GPU."""
        on_gpus = self.settings.method in _NETWORK_MODULES
        return Resources.on(self.settings.device if on_gpus else "cpu", self.weights().values())

    def open(self, given: Inputs) -> None:
        """Load the source of candidates and the labeller. Raises `FatalError` when one cannot be used."""
        self._candidates = open_candidates(self.settings)
        self._open = open_labeller(self.settings, given.artifact("tagger"), self.worker)

    def audit(self, made: Inputs) -> None:
        """Compare the labels with the relations that the labelled sets state.

        Raises `FatalError` when labels are worse than the settings allow, naming the predicates, or cannot be judged.
        """
        floor = self.settings.audit_floor
        if not floor:
            return
        count = LabelCount(ChoiceSettings())
        for images, tagged in zip(made.artifacts("images"), made.artifacts("relations"), strict=True):
            count.add(images.table("images"), tagged)
        found = count.audit()
        if not found.reachable:
            raise FatalError(
                f"tag.audit_floor = {floor:g}: the labelled sets state no relation that has a candidate, so there is nothing "
                "to judge the labels by; set it to 0"
            )
        if found.tagger.average_precision >= floor:
            return
        judged = sorted((each for each in found.predicates if each.truths), key=lambda each: each.average_precision)
        # Each predicate may rank its own labels well although all together rank badly; then the lowest are named.
        failed = [each for each in judged if each.average_precision < floor] or judged[:LOWEST]
        worst = [f"{each.predicate} {each.average_precision:.2f} ({each.truths} true)" for each in failed]
        raise FatalError(
            f"labels refused: their average precision {found.tagger.average_precision:.2f} over {found.reachable} "
            f"reachable relations is below tag.audit_floor = {floor:g} (naive matching: "
            f"{found.naive.average_precision:.2f}); worst predicates: {', '.join(worst)}. Train the tagger longer or on more "
            "data, or lower the floor, which recomputes nothing"
        )

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Score the partition's candidates; images that cannot be read or scored go to quarantine."""
        rows = inputs.table("images").to_pylist()
        stated = {row["image_id"]: row["triplets"] for row in inputs.table("triplets").to_pylist()}
        known = sorted({box["category"] for row in rows for box in row["boxes"]}.union(self.settings.categories))
        proposed = [self._propose(row, stated.get(row["image_id"], []), known) for row in rows]
        images = [self._image(row, given) for row, given in zip(rows, proposed, strict=True)]
        labels = self._open.labeller.label(images, lambda done: report(done, len(rows)))
        report(len(rows), len(rows))
        rejected = [
            Rejected(row["image_id"], one.problem.reason, one.problem.value)
            for row, one in zip(rows, labels, strict=True)
            if one.problem
        ]
        kept = [_Labelled(*each) for each in zip(rows, images, labels, strict=True) if not each[2].problem]
        relations = [
            {"image_id": one.row["image_id"], "tagger": self._open.digest, "relations": one.relations(stated)}
            for one in kept
        ]
        pairs = [{"image_id": one.row["image_id"], "pairs": [asdict(p) for p in one.image.pairs]} for one in kept]
        write_table(pa.Table.from_pylist(pairs, schema=CANDIDATES), work / CANDIDATES_FILE)
        lost = _dropped(rows, proposed, stated, {reject.image_id for reject in rejected})
        write_table(pa.Table.from_pylist(lost, schema=DROPPED), work / DROPPED_FILE)
        facts = {
            "triplets dropped": len(lost),
            "candidates": sum(len(image.pairs) for image in images),
            "images without candidates": sum(not image.pairs for image in images),
            "relations": sum(len(row["relations"]) for row in relations),
        }
        table = pa.Table.from_pylist(relations, schema=RELATIONS)
        files = {name: work / name for name in (CANDIDATES_FILE, DROPPED_FILE)}
        return Output(table, files, rejected, rows_in=len(rows), facts=facts)

    def _propose(
        self, row: Mapping[str, Any], triplets: Sequence[Mapping[str, Any]], known: Collection[str]
    ) -> Candidates:
        captions = [values["caption"] for values in triplets]
        return self._candidates([_triplet(values) for values in triplets], _boxes(row), captions, known)

    def _image(self, row: dict[str, Any], proposed: Candidates) -> TaggingImage:
        import torch

        from pipeline.data.images.views import to_pixels, view_size
        from tagger.labelling.tagging_image import Problem, TaggingImage

        size = self._open.image_size
        width, height = (row["width"], row["height"]) if size is None else view_size(row["width"], row["height"], size)

        def load() -> Tensor | Problem:
            try:
                image = read_image(locate_image(self.image_folders, row))
                if size is None:
                    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255))
                return to_pixels(image, size)
            except BadImage as bad:
                return Problem(bad.reason, bad.value)

        return TaggingImage(row["width"], row["height"], _boxes(row), proposed.pairs, (height, width), load)


class _Labelled(NamedTuple):
    """A labelled image."""

    row: dict[str, Any]
    image: TaggingImage
    labels: Labels

    def relations(self, stated: Mapping[int, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The image's relations as rows, each with the caption of its triplet."""
        triplets = stated.get(self.row["image_id"], [])
        return [
            asdict(relation) | {"caption": triplets[relation.triplet]["caption"] if relation.proposed else -1}
            for relation in self.labels.relations
        ]


def _boxes(row: Mapping[str, Any]) -> list[Box]:
    return [Box(b["category"], b["x"], b["y"], b["w"], b["h"], b["crowd"]) for b in row["boxes"]]


def _dropped(
    rows: Sequence[Mapping[str, Any]],
    proposed: Sequence[Candidates],
    stated: Mapping[int, Sequence[Mapping[str, Any]]],
    quarantined: Collection[int],
) -> list[dict[str, Any]]:
    """The triplets that led to no candidate, as rows. Those of a quarantined image were not considered at all."""
    found: list[dict[str, Any]] = []
    for row, candidates in zip(rows, proposed, strict=True):
        image_id = row["image_id"]
        if image_id in quarantined:
            numbers = range(len(stated.get(image_id, ())))
            found += [{"image_id": image_id, "triplet": n, "reason": QUARANTINED, "value": ""} for n in numbers]
        else:
            found += [{"image_id": image_id, **each._asdict()} for each in candidates.dropped]
    return found


def _triplet(values: Mapping[str, Any]) -> Triplet:
    return Triplet(**{name: value for name, value in values.items() if name != "caption"})
