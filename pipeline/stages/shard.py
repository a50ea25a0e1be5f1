"""Stage `shard`: packs the bytes and labels of a partition's images into one tar, ready for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.data.images.folders import locate_image
from pipeline.data.images.opening import BadImage, probe_bytes, read_bytes
from pipeline.labels.kept_labels import ChoiceSettings, KeptLabels, kept_labels
from pipeline.runtime.stage import Inputs, Output, Rejected, ReportProgress, Stage
from pipeline.training.sample import SampleRelation, TrainingSample, strongest
from storage.errors import FatalError
from storage.shards import Sample, write_shard
from storage.tables import CANDIDATES, SHARD_MEMBERS
from tagger.english.predicates import canonical

SHARD_FILE = "shard.tar"
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}


class ShardSettings(ChoiceSettings):
    """Which labels go into the shards. Changing them does not run the tagger again."""

    labels: Literal["pseudo", "given", "none"] = "pseudo"
    """Source of the relations. pseudo: the tagger; given: the data set itself; none: no relations, boxes only."""


class ShardStage(Stage):
    """Writes one tar and its index per partition. Images without a box are left out; unreadable images are rejected."""

    name = "shard"
    version = 2
    writes = "shards"
    schema = SHARD_MEMBERS

    def __init__(self, settings: ShardSettings, image_folders: Mapping[str, Path | str] | None = None) -> None:
        super().__init__(settings, image_folders)
        self.reads = ("images", "relations") if settings.labels == "pseudo" else ("images",)  # type: ignore[misc]

    def row_settings(self) -> dict[str, Any]:
        """The settings that change rows: the choice of labels only for pseudo-labels, `max_relations` only with relations."""
        given = super().row_settings()
        if self.settings.labels == "pseudo":
            return given
        names = ("labels", "max_relations") if self.settings.labels == "given" else ("labels",)
        return {name: given[name] for name in names}

    def run(self, inputs: Inputs, work: Path, report: ReportProgress) -> Output:
        """Write the partition's tar."""
        rows = inputs.table("images").to_pylist()
        kept = self._kept(inputs) if self.settings.labels == "pseudo" else {}
        rejected: list[Rejected] = []
        counts = {"images": 0, "without a box": 0, "relations": 0}

        def samples() -> Iterator[Sample]:
            for done, row in enumerate(rows):
                report(done, len(rows))
                sample = self._sample(row, kept)
                if not sample.boxes:
                    counts["without a box"] += 1
                    continue
                try:
                    data = read_bytes(locate_image(self.image_folders, row))
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

    def _sample(self, row: dict[str, Any], kept: KeptLabels) -> TrainingSample:
        relations = kept.get(row["image_id"], ())
        if self.settings.labels == "given":
            stated = [SampleRelation(r["subject"], r["object"], canonical(r["predicate"])) for r in row["relations"]]
            relations = strongest([relation for relation in stated if relation.predicate], self.settings.max_relations)
        return TrainingSample.from_row(row, relations)

    def _kept(self, inputs: Inputs) -> KeptLabels:
        """The labels of each image to train on. Raises `FatalError` when they lack what the settings ask for."""
        tagged = inputs.artifact("relations")
        candidates = tagged.table("candidates") if self.settings.rule == "best" else CANDIDATES.empty_table()
        try:
            return kept_labels(tagged.table("relations"), candidates, self.settings)
        except FatalError as error:
            raise FatalError(f"{inputs.partition}: {error}") from error
