"""Stage `shard`: each image's bytes and labels in one tar, ready for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.images import BadImage, probe_bytes, read_bytes
from pipeline.settings import Settings
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from pipeline.training.sample import SampleRelation, TrainingSample, strongest
from storage.errors import Terminal
from storage.shards import Sample, write_shard
from storage.tables import SHARD_MEMBERS
from tagger.candidates import Pair
from tagger.label_choice import LabelChoice
from tagger.predicates import canonical
from tagger.relation import Relation

SHARD_FILE = "shard.tar"
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}


class ShardSettings(Settings):
    """Which labels go into the shards."""

    labels: Literal["pseudo", "given", "none"] = "pseudo"
    """pseudo: the tagger's relations; given: those of the data set; none: boxes only."""
    confidence: Literal["score", "calibrated"] = "score"
    """What counts as a pseudo relation's confidence: the tagger's raw score, or the probability that it stands for."""
    rule: Literal["all", "best", "posterior"] = "all"
    """Of the pairs that a caption may mean: all; as many as it means, the likeliest; or all, each less sure by as much as
    the others are likelier."""
    threshold: float = Field(0.2, ge=0.0, le=1.0)
    """Pseudo relations with a lower confidence are left out."""
    thresholds: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = Field(default_factory=dict)
    """Thresholds of single predicates, by canonical name."""
    per_pair: int | None = Field(None, ge=1)
    """At most so many pseudo relations of an ordered pair of boxes, the surest."""
    max_relations: int = Field(100, ge=1)
    """At most so many relations an image, best score first."""


class ShardStage(Stage):
    """One tar and its index for each partition; images without a box are left out, unreadable ones rejected."""

    name = "shard"
    version = 2
    writes = "shards"
    schema = SHARD_MEMBERS

    def __init__(self, settings: ShardSettings, image_folders: Mapping[str, Path | str] | None = None) -> None:
        super().__init__(settings, image_folders)
        self.reads = ("images", "relations") if settings.labels == "pseudo" else ("images",)  # type: ignore[misc]

    def row_settings(self) -> dict[str, Any]:
        """Without pseudo-labels their choice changes nothing, without relations neither does their number."""
        given = super().row_settings()
        if self.settings.labels == "pseudo":
            return given
        names = ("labels", "max_relations") if self.settings.labels == "given" else ("labels",)
        return {name: given[name] for name in names}

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Write the partition's tar."""
        rows = inputs.table("images").to_pylist()
        scored = self._scored(inputs) if self.settings.labels == "pseudo" else {}
        rejected: list[Rejected] = []
        counts = {"images": 0, "without a box": 0, "relations": 0}

        def samples() -> Iterator[Sample]:
            for done, row in enumerate(rows):
                report(done, len(rows))
                sample = self._sample(row, scored)
                if not sample.boxes:
                    counts["without a box"] += 1
                    continue
                try:
                    data = read_bytes(self.image_path(row))
                    extension = _EXTENSIONS[probe_bytes(data).format]
                except BadImage as error:
                    rejected.append(Rejected(row["image_id"], error.reason, error.value))
                    continue
                counts["images"] += 1
                counts["relations"] += len(sample.relations)
                yield Sample(row["image_id"], {extension: data, "json": sample.to_json()})
            report(len(rows), len(rows))

        path = work / SHARD_FILE
        index = write_shard(path, samples())
        boxed = len(rows) - counts["without a box"]
        return Output(index, {SHARD_FILE: path}, rejected, rows_in=boxed, rows_out=counts["images"], facts=counts)

    def _sample(self, row: dict[str, Any], scored: Mapping[int, Sequence[tuple[Relation, float]]]) -> TrainingSample:
        settings: ShardSettings = self.settings
        relations: list[SampleRelation] = []
        if settings.labels == "pseudo":
            relations = [
                SampleRelation(r.subject, r.object, canonical(r.predicate), round(confidence, 6))
                for r, confidence in scored.get(row["image_id"], [])
            ]
        elif settings.labels == "given":
            relations = [SampleRelation(r["subject"], r["object"], canonical(r["predicate"])) for r in row["relations"]]
        relations = [relation for relation in relations if relation.predicate]
        return TrainingSample.from_row(row, strongest(relations, settings.max_relations))

    def _scored(self, inputs: Inputs) -> dict[int, list[tuple[Relation, float]]]:
        """The chosen labels of each image with their confidence."""
        settings: ShardSettings = self.settings
        choice = LabelChoice(
            settings.confidence, settings.rule, settings.threshold, settings.thresholds, settings.per_pair
        )
        pairs: dict[int, list[Pair]] = {}
        if settings.rule == "best":
            for row in inputs.artifact("relations").table("candidates").to_pylist():
                pairs[row["image_id"]] = [Pair(**pair) for pair in row["pairs"]]
        names = [each.name for each in fields(Relation)]
        try:
            return {
                row["image_id"]: choice.chosen(
                    [Relation(**{name: values[name] for name in names}) for values in row["relations"]],
                    pairs.get(row["image_id"], []),
                )
                for row in inputs.table("relations").to_pylist()
            }
        except ValueError as error:
            raise Terminal(f"{inputs.partition}: {error}") from error
