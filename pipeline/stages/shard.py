"""Stage `shard`: each image's bytes and labels in one tar, ready for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.images import BadImage, probe_bytes, read_bytes
from pipeline.settings import Settings
from pipeline.stage import Inputs, Output, Rejected, Report, Stage
from pipeline.training.sample import SampleRelation, TrainingSample, strongest
from storage.shards import Sample, write_shard
from storage.tables import SHARD_MEMBERS
from tagger.predicates import canonical

SHARD_FILE = "shard.tar"
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}


class ShardSettings(Settings):
    """Which labels go into the shards."""

    labels: Literal["pseudo", "given", "none"] = "pseudo"
    """pseudo: the tagger's relations; given: those of the data set; none: boxes only."""
    threshold: float = Field(0.2, ge=0.0, le=1.0)
    """Pseudo relations with a lower score are left out."""
    max_relations: int = Field(100, ge=1)
    """At most so many relations an image, best score first."""


class ShardStage(Stage):
    """One tar and its index for each partition; images without a box are left out, unreadable ones rejected."""

    name = "shard"
    version = 1
    writes = "shards"
    schema = SHARD_MEMBERS

    def __init__(self, settings: ShardSettings, image_folders: Mapping[str, Path] | None = None) -> None:
        super().__init__(settings, image_folders)
        self.reads = ("images", "relations") if settings.labels == "pseudo" else ("images",)  # type: ignore[misc]

    def row_settings(self) -> dict[str, Any]:
        """Without pseudo-labels the threshold changes nothing, without relations neither does their number."""
        kept = {"pseudo": ("labels", "threshold", "max_relations"), "given": ("labels", "max_relations")}
        names = kept.get(self.settings.labels, ("labels",))
        return {name: value for name, value in super().row_settings().items() if name in names}

    def run(self, inputs: Inputs, work: Path, report: Report) -> Output:
        """Write the partition's tar."""
        rows = inputs.table("images").to_pylist()
        scored = _scored(inputs) if self.settings.labels == "pseudo" else {}
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

    def _sample(self, row: dict[str, Any], scored: dict[int, list[dict[str, Any]]]) -> TrainingSample:
        settings: ShardSettings = self.settings
        relations: list[SampleRelation] = []
        if settings.labels == "pseudo":
            relations = [
                SampleRelation(r["subject"], r["object"], canonical(r["predicate"]), round(r["score"], 6))
                for r in scored.get(row["image_id"], [])
                if r["score"] >= settings.threshold
            ]
        elif settings.labels == "given":
            relations = [SampleRelation(r["subject"], r["object"], canonical(r["predicate"])) for r in row["relations"]]
        relations = [relation for relation in relations if relation.predicate]
        return TrainingSample.from_row(row, strongest(relations, settings.max_relations))


def _scored(inputs: Inputs) -> dict[int, list[dict[str, Any]]]:
    return {row["image_id"]: row["relations"] for row in inputs.table("relations").to_pylist()}
